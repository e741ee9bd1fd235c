"""Whose a run's folder is: what it holds, whether that is the same run, and what made it."""

import json
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import erasure
from erasure.errors import RunError, SettingError
from erasure.files.locking import LOCK
from erasure.files.records import ConfigShape, read_record

VERSIONS = ("torch", "diffusers", "transformers", "accelerate")
LONGEST = 200  # letters of a value in a message
SAME_RUN = (
    "method",
    "model",
    "base_digest",
    "onto",
    "config",
    "concepts",
    "tasks",
    "samples",
    "random_share",
    "true_labels",
    "keep",
    "data",
    "settings",
    "inputs",
    "seed",
    "mixed_precision",
    "use_8bit_adam",
    "allow_tf32",
    "processes",
)


# what a run writes, beside pages, under names of its own
OWN = (
    "attacks", "config.json", "edit.json", "edit.safetensors", "generator", "images", "log.jsonl",
    "mask.safetensors", "recognised.json", "requests.json", "scores", "state", LOCK,
)  # fmt: skip


def refuse_inside(out: Path) -> None:
    """SettingError for a place that would be, or lie in, a part of some run's own."""
    place = out.absolute().parent.resolve() / out.name
    for folder in place.parents:
        own = place.relative_to(folder).parts[0]
        is_run = (folder / "edit.json").is_file() or (folder / "log.jsonl").is_file()
        if is_run and (own in OWN or own.endswith(".tmp")):
            raise SettingError(
                f"out must be no part of a run; {own} in {folder} is that run's own. Name another "
                f"place, as {folder / 'exports' / out.name}."
            )


def run_record(folder: Path, *, remedy: str = "") -> dict[str, Any]:
    """What a run's config.json says; nothing, for a folder without one (a delta).

    RunError unless it has the shape of one; `remedy` as of `read_record`.
    """
    file = folder / "config.json"
    return {**read_record(file, ConfigShape, remedy=remedy)} if file.is_file() else {}


def own_record(folder: Path, record: Mapping[str, object]) -> dict[str, Any]:
    """The config.json that lies in the folder, if it is this run's; empty if there is none.

    RunError if the folder holds anything else, naming the first difference.
    """
    if (folder / "config.json").is_file():
        old = run_record(folder, remedy="remove the folder or name another --out")
        new = json.loads(json.dumps(dict(record)))
        for key in SAME_RUN:  # runs of earlier versions lie on no other
            _refuse_other(
                folder, key, old.get(key, new.get(key) if key != "onto" else None), new.get(key)
            )
        return old
    if folder.exists() and holds_files(folder):
        raise RunError(f"{folder} exists and is not a run of ours; name another --out.")
    return {}


def versions() -> dict[str, str]:
    """Of Python and of the libraries that decide a run's bits."""
    found = {name: version(name) for name in VERSIONS}
    return found | {"erasure-toolkit": erasure.__version__, "python": platform.python_version()}


def holds_files(folder: Path) -> bool:
    """Whether a folder holds anything but its lock and the leavings of a killed write."""
    return any(not file.name.endswith(".tmp") and file.name != LOCK for file in folder.iterdir())


def clear(folder: Path) -> None:
    """Remove what a run writes before it learns, and the folder if nothing else is in it.

    What holds requests that were measured stays a run, which the same command finishes.
    """
    if (folder / "requests.json").is_file():
        return
    for name in ("config.json", "log.jsonl", "mask.safetensors"):
        (folder / name).unlink(missing_ok=True)
    if not holds_files(folder):
        shutil.rmtree(folder)


def _refuse_other(folder: Path, key: str, old: object, new: object) -> None:
    """RunError, naming what differs, if the folder's record is not this run's."""
    one, other = _by_name(old), _by_name(new)
    if one and list(one) == list(other):
        old, new = one, other
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            _refuse_other(folder, f"{key}.{name}", old.get(name), new.get(name))
    elif old != new:
        section, _, name = key.partition(".")
        differs = f"its {key} is {_short(old)}, this one's is {_short(new)}"
        if section == "inputs" and name:
            # what one of them does not tell: an earlier version, or a file that is gone
            if None in (old, new) and not name.endswith(".py"):
                return
            differs = f"of its inputs, {name} has changed since"
        raise RunError(
            f"{folder} holds a different run: {differs}. Remove the folder, or name another --out."
        )


def _by_name(value: object) -> Mapping[str, object]:
    """A list of concepts, each by its name; nothing, of anything else."""
    records = value if isinstance(value, list) else []
    known = {
        item["name"]: item
        for item in records
        if isinstance(item, dict) and isinstance(item.get("name"), str)
    }
    return known if len(known) == len(records) else {}


def _short(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return ", ".join(str(item.get("name", item)) for item in value)
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
