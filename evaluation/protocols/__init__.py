"""Protocols: what is drawn or asked, and how it is judged; one file each, found by its stem."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from erasure.config import Value, module_names, nearest
from erasure.errors import SettingError
from erasure.models.diffusion.model import DiffusionModel, Sampling


@dataclass(frozen=True)
class Asked:
    """What `evaluate` hands to a protocol.

    `folder` is where the record goes: the run itself, or another for an un-erased model or for
    `images` of any tool. Without images a drawing protocol gets the opened `model`; one that judges
    classifiers opens the run. `concepts` are the run's own unless `is_own` is False. What the user
    did not give is None, or empty. `base` says where the run's base model is now.
    """

    folder: Path
    model: DiffusionModel | None = None
    images: Path | None = None
    concepts: Sequence[str] = ()
    is_own: bool = True
    sampling: Sampling | None = None
    seeds: Sequence[int] | None = None
    subset: str | None = None
    reference: Path | None = None
    base: Path | str | None = None
    settings: dict[str, Value] = field(default_factory=dict)


Option = Literal["seeds", "subset", "reference", "settings"]


@dataclass(frozen=True)
class Protocol:
    """What a protocol's module defines as `PROTOCOL`.

    `judges` says whether it is for runs of `erase`, un-erased models and images, or for runs of
    `forget`. Options that are not among `takes` are refused. `evaluate` returns the record that it
    writes into the folder's scores.
    """

    name: str
    judges: Literal["drawings", "classes"]
    evaluate: Callable[[Asked], dict[str, Any]]
    takes: frozenset[Option] = frozenset()


def protocol_names() -> list[str]:
    """Every protocol's name, found without importing any."""
    return sorted({name for place in __path__ for name in module_names(Path(place))})


def find_protocol(name: str) -> Protocol:
    """Import one protocol; SettingError lists near names if there is none."""
    word = name.replace("_", "-")
    if word not in protocol_names():
        raise SettingError(f"there is no protocol {name!r}. {nearest(word, protocol_names())}")
    module = importlib.import_module(f"{__name__}.{word.replace('-', '_')}")
    found = getattr(module, "PROTOCOL", None)
    if not isinstance(found, Protocol) or found.name != word:
        raise SettingError(
            f"{module.__file__} must define PROTOCOL, an evaluation.protocols.Protocol named "
            f"{word!r}; it has none."
        )
    return found
