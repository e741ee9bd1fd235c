"""Another method by its name, for one that works before or after it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erasure.config import Value, resolve, typed
from erasure.models.diffusion.beside import read_presets
from erasure.registry import METHODS

QUICK = "quick"


def following(word: str, text: str, folder: Path | None, name: str) -> Any:
    """A classifier's method with the presets of a model's folder, and with settings over them.

    `text` has these, as in "epochs=3,select=mlp"; among them `quick` means its smoke-run values.
    SettingError, about the setting `name` that holds them, for what is none.
    """
    return _resolved(word, text, read_presets(folder, word.replace("_", "-")), name)


def check_following(word: str, text: str, name: str) -> None:
    """SettingError as `following`, as far as can be said before the model is known."""
    _resolved(word, text, None, name)


def _resolved(word: str, text: str, presets: Mapping[str, Value] | None, name: str) -> Any:
    kind: Any = METHODS.get("classifier", word)
    words = [part.strip() for part in text.split(",")]
    given = typed(kind, ",".join(part for part in words if part != QUICK), name)
    return resolve(kind, given=given, quick=QUICK in words, presets=presets)[0]
