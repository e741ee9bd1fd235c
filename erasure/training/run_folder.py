"""Whose a run's folder is: what it holds, whether that is the same run, and what made it."""

import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from erasure.errors import RunError
from erasure.files.locking import LOCK

VERSIONS = ("torch", "diffusers", "transformers", "accelerate", "erasure-toolkit")
LONGEST = 200  # letters of a value in a message
SAME_RUN = (
    "method",
    "model",
    "base_digest",
    "config",
    "concepts",
    "tasks",
    "samples",
    "data",
    "settings",
    "inputs",
    "seed",
    "mixed_precision",
    "use_8bit_adam",
    "allow_tf32",
    "processes",
)


def refuse_another(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """RunError, naming the first difference, if the folder's record is not this run's."""
    for key in SAME_RUN:
        _refuse_other(folder, key, old.get(key, new.get(key)), new.get(key))


def versions() -> dict[str, str]:
    """Of Python and of the libraries that decide a run's bits."""
    found = {name: version(name) for name in VERSIONS}
    return found | {"python": platform.python_version()}


def holds_files(folder: Path) -> bool:
    """Whether a folder holds anything but its lock and the leavings of a killed write."""
    return any(not file.name.endswith(".tmp") and file.name != LOCK for file in folder.iterdir())


def clear(folder: Path) -> None:
    """Remove what a run writes before it learns, and the folder if nothing else is in it."""
    for name in ("config.json", "log.jsonl", "mask.safetensors"):
        (folder / name).unlink(missing_ok=True)
    if not holds_files(folder):
        shutil.rmtree(folder)


def _refuse_other(folder: Path, key: str, old: object, new: object) -> None:
    """RunError, naming what differs, if the folder's record is not this run's."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            _refuse_other(folder, f"{key}.{name}", old.get(name), new.get(name))
    elif old != new:
        raise RunError(
            f"{folder} holds a different run: its {key} is {_short(old)}, "
            f"this one's is {_short(new)}."
        )


def _short(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return ", ".join(str(item.get("name", item)) for item in value)
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
