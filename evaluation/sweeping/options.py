"""Options of a sweep's commands: which each takes, and the words that they are typed with."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from erasure.commandline.judging import SHARED, attack_options, evaluate_options
from erasure.commandline.methods import erase_options, forget_options
from erasure.commandline.settings_file import checked_value, known_options
from erasure.config import Value, nearest, resolve
from erasure.errors import SettingError
from erasure.registry import ATTACKS, METHODS, PROTOCOLS

# what each sort of command itself takes
OPTIONS = {
    "diffusion": erase_options,
    "classifier": forget_options,
    "attack": attack_options,
    "evaluation": lambda _: evaluate_options(),
}
# of that, what the grid says, and what would make no cell of a sweep
TAKEN = {
    "diffusion": ("concept", "concepts_file", "model", "out", "seed", "quick", "dry_run"),
    "classifier": (
        "class_", "task", "samples", "random_share", "keep", "model", "out", "seed", "quick",
        "dry_run",
    ),
    "attack": ("concept", "quick"),
    "evaluation": ("model", "images", "out", "concept", *SHARED),
}  # fmt: skip


def checked_options(
    kind: str, name: str, given: Mapping[str, Any], *, quick: bool,
    presets: Mapping[str, Value] | None,
) -> dict[str, Any]:  # fmt: skip
    """Options by their names in Python, as the command of this kind and name takes them.

    `presets` are the model's for it, None if they are not known. SettingError for one that it does
    not take, for a value of the wrong type, and for one that its plug-in's settings refuse.
    """
    if not given:  # a plug-in and its libraries take seconds to import
        return {}
    where = name or kind
    known = {
        flag: entry
        for flag, entry in known_options(OPTIONS[kind](name)).items()
        if entry.name not in TAKEN[kind]
    }
    options = dict[str, Any]()
    for key, value in given.items():
        flag = key.replace("_", "-")
        if flag not in known:
            raise SettingError(f"{where} takes no {key!r} in a sweep. {nearest(flag, [*known])}")
        is_listed = key == "seeds" and isinstance(value, list)  # they take commas
        typed = ",".join(map(str, value)) if is_listed else value
        options[known[flag].name] = checked_value(flag, known[flag], typed, f"options of {where}")
    _check_settings(kind, name, options, quick, presets)
    return options


def _check_settings(
    kind: str, name: str, options: Mapping[str, Any], quick: bool,
    presets: Mapping[str, Value] | None,
) -> None:  # fmt: skip
    """SettingError for the first value that the plug-in's settings refuse."""
    if kind == "evaluation":
        found = PROTOCOLS.get(options["protocol"]).settings if "protocol" in options else None
    elif kind == "attack":
        found = None if name == "all" else ATTACKS.get(name)
    else:
        found = METHODS.get(kind, name)  # type: ignore[arg-type]
    if found:
        own = {item.name for item in fields(found)}
        mine = {key: value for key, value in options.items() if key in own}
        resolve(found, given=mine, quick=quick, presets=presets)


def words(options: Mapping[str, Any]) -> list[str]:
    """Options as they are typed; a list repeats its option."""
    typed = []
    for name, value in options.items():
        flag = "--" + name.rstrip("_").replace("_", "-")
        if isinstance(value, bool):
            typed.append(flag if value else f"--no-{flag[2:]}")
        else:
            typed += [f"{flag}={one}" for one in (value if isinstance(value, list) else [value])]
    return typed
