"""Options of a sweep's commands: which each takes, and the words that they are typed with."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from erasure.config import nearest, resolve
from erasure.errors import SettingError
from erasure.registry import ATTACKS, METHODS, PROTOCOLS
from evaluation.prompts.settings import PromptsSettings
from evaluation.unlearncanvas.settings import UnlearnCanvasSettings

# what every command of a sort takes beside the fields of its plug-in, less what the grid says
COMMON = {
    "diffusion": ("kind", "anchor", "config", "revision", "base"),
    "classifier": (
        "data", "images", "test_images", "shots", "missing", "watch_every", "mixed_precision",
    ),
    "attack": ("criterion", "prompts", "seeds", "budget", "seed", "base", "gold"),
    "evaluation": ("protocol", "seeds", "subset", "reference", "base", "gold"),
}  # fmt: skip


def checked_options(
    kind: str, name: str, given: Mapping[str, Any], *, quick: bool
) -> dict[str, Any]:
    """Options by their names in Python, as the command of this kind and name takes them.

    SettingError for one that it does not take, or that its plug-in's dataclass refuses.
    """
    if not given:  # a plug-in and its libraries take seconds to import
        return {}
    options = {key.replace("-", "_"): value for key, value in given.items()}
    where = name or kind
    own, shared = _dataclass(kind, name, options), _shared(kind)
    known = [*COMMON[kind], *shared, *own]
    for key, value in options.items():
        if key not in known:
            raise SettingError(f"{where} takes no {key!r} in a sweep. {nearest(key, known)}")
        values = value if isinstance(value, list) else [value]
        if not values or not all(isinstance(one, (str, int, float)) for one in values):
            raise SettingError(
                f"{key} of {where} must be a text, a number, true or false; got {value!r}."
            )
    if own:
        mine = {key: value for key, value in options.items() if key in own}
        resolve(next(iter(own.values())), given=mine, quick=quick, presets={})
    return options


def _dataclass(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The dataclass whose fields are options, by each field."""
    if kind in ("diffusion", "classifier"):
        found = METHODS.get(kind, name)  # type: ignore[arg-type]
    elif kind == "attack":
        found = None if name == "all" else ATTACKS.get(name)
    else:
        found = PROTOCOLS.get(options["protocol"]).settings if "protocol" in options else None
    return {item.name: found for item in fields(found)} if found else {}


def _shared(kind: str) -> list[str]:
    """Fields of dataclasses whose values the command itself checks."""
    if kind == "diffusion":
        from erasure.training.hardware import Hardware

        return [item.name for item in fields(Hardware)]
    if kind == "evaluation":
        kinds = (UnlearnCanvasSettings, PromptsSettings)
        return [item.name for kind in kinds for item in fields(kind)]
    return []


def words(options: Mapping[str, Any]) -> list[str]:
    """Options as they are typed; a list repeats its option, but for seeds, which take commas."""
    typed = []
    for name, value in options.items():
        flag = "--" + name.rstrip("_").replace("_", "-")
        if isinstance(value, bool):
            typed.append(flag if value else f"--no-{flag[2:]}")
        elif isinstance(value, list) and name == "seeds":
            typed.append(f"{flag}={','.join(map(str, value))}")
        else:
            typed += [f"{flag}={one}" for one in (value if isinstance(value, list) else [value])]
    return typed
