"""Protocols: what is drawn or asked, and how it is judged; plug-ins, one file each."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from erasure.config import Value
from erasure.models.diffusion.model import DiffusionModel, Sampling
from erasure.registry import name_of
from erasure_datasets.concept import Concept


@dataclass(frozen=True)
class Asked:
    """What `evaluate` hands to a protocol.

    `folder` is where the record goes: the run itself, or another for an un-erased model or for
    `images` of any tool. Without images a drawing protocol gets the opened `model`; one that judges
    classifiers opens the run. `concepts` are the run's own unless `is_own` is False; `erased` is
    all that it erased, with kinds and anchors. What the user did not give is None, or empty. `base`
    says where the run's base model is now, `gold` which model never knew the concepts.
    """

    folder: Path
    model: DiffusionModel | None = None
    images: Path | None = None
    concepts: Sequence[str] = ()
    erased: Sequence[Concept] = ()
    is_own: bool = True
    sampling: Sampling | None = None
    seeds: Sequence[int] | None = None
    subset: str | None = None
    reference: Path | None = None
    base: Path | str | None = None
    gold: Path | str | None = None
    settings: dict[str, Value] = field(default_factory=dict)

    @property
    def also_erased(self) -> list[Concept]:
        """What the run erased beside the concepts that are asked for."""
        own = {name.casefold() for name in self.concepts}
        return [concept for concept in self.erased if own and concept.name.casefold() not in own]


Option = Literal["seeds", "subset", "reference", "gold"]


class Protocol(ABC):
    """What every protocol's class inherits.

    `judges` says whether it is for runs of `erase`, un-erased models and images, or for runs of
    `forget`. Options that are not among `takes` are refused, and all settings but those of the
    dataclass `settings`.
    """

    judges: ClassVar[Literal["drawings", "classes"]] = "drawings"
    takes: ClassVar[frozenset[Option]] = frozenset()
    settings: ClassVar[type | None] = None

    @property
    def name(self) -> str:
        return name_of(type(self))

    @abstractmethod
    def evaluate(self, asked: Asked) -> dict[str, Any]:
        """The record that it writes into the folder's scores."""
