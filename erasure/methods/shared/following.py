"""Another method by its name, for one that works before or after it."""

from pathlib import Path
from typing import Any

from erasure.config import resolve, typed
from erasure.models.diffusion.beside import read_presets
from erasure.registry import METHODS

QUICK = "quick"


def following(word: str, text: str, folder: Path | None, name: str) -> Any:
    """A classifier's method with the presets of a model's folder, and with settings over them.

    `text` has these, as in "epochs=3,select=mlp"; among them `quick` means its smoke-run values.
    SettingError, about the setting `name` that holds them, for what is none.
    """
    kind: Any = METHODS.get("classifier", word)
    words = [part.strip() for part in text.split(",")]
    given = typed(kind, ",".join(part for part in words if part != QUICK), name)
    presets = read_presets(folder, word.replace("_", "-"))
    return resolve(kind, given=given, quick=QUICK in words, presets=presets)[0]
