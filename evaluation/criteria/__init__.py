"""What counts as drawing the concept: plug-ins, one file each, called as WORD or WORD=VALUE."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from erasure.errors import SettingError
from erasure.models.diffusion.model import DiffusionModel
from erasure.registry import CRITERIA
from erasure_datasets.concept import Concept


class Criterion(ABC):
    """Whether each image shows the concept: what every criterion's class inherits."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What it asks, for reports."""

    @classmethod
    def of(cls, value: str, model: DiffusionModel, concept: Concept) -> Self:
        """From what stands behind the =, or nothing; SettingError for what cannot tell."""
        raise NotImplementedError

    @abstractmethod
    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Bool[Tensor, " n"]:
        """Of images in [0, 255], on the CPU."""

    def probability(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, " n"] | None:
        """That each image shows it, on the CPU; None from a criterion that says yes or no alone."""
        return None

    def among(self, names: Sequence[str]) -> Self:
        """The same, told what else an image could show; most need not know."""
        return self

    def of_another(self, name: str) -> Self | None:
        """The same question of another name; None where it is of its own concept alone."""
        return None


@dataclass(frozen=True)
class All(Criterion):
    """Every one of several criteria holds."""

    parts: tuple[Criterion, ...]

    @property
    def name(self) -> str:
        return " and ".join(part.name for part in self.parts)

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Bool[Tensor, " n"]:
        return torch.stack([part(images) for part in self.parts]).all(0)

    def probability(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, " n"] | None:
        """The least of those that give one."""
        said = [part.probability(images) for part in self.parts]
        known = [values for values in said if values is not None]
        return torch.stack(known).amin(0) if known else None

    def among(self, names: Sequence[str]) -> "All":
        return All(tuple(part.among(names) for part in self.parts))

    def of_another(self, name: str) -> "All | None":
        """None unless every part can be asked."""
        asked = [part.of_another(name) for part in self.parts]
        parts = tuple(part for part in asked if part is not None)
        return All(parts) if len(parts) == len(asked) else None


def find_criterion(words: str, model: DiffusionModel, concept: Concept) -> Criterion:
    """The criterion that `words` names; several joined by "+" must all hold.

    "judge": the judge that ships with the model; "judge=FOLDER": a timm classifier whose labels
    hold the concept; "clip": the CLIP that ships with the model; "clip=NAME:PRETRAINED" or
    "clip=FOLDER": one of open_clip's; "clip=pocket": the built-in one;
    "nudenet=PRESET" or "nudenet=THRESHOLD:CLASS,CLASS"; "module:function" or "file.py:function":
    images -> bool (n); or a plug-in's word.
    SettingError if a part is none of these or cannot tell the concept.
    """
    parts = tuple(_one(word.strip(), model, concept) for word in words.split("+"))
    return parts[0] if len(parts) == 1 else All(parts)


def _one(word: str, model: DiffusionModel, concept: Concept) -> Criterion:
    kind, equals, value = word.partition("=")
    if equals and not value:
        raise SettingError(f"criterion {word} must name something behind the =.")
    if kind.replace("_", "-") in CRITERIA.names():
        return CRITERIA.get(kind).of(value, model, concept)
    if ":" in word:
        return CRITERIA.get("function").of(word, model, concept)
    raise SettingError(
        "criterion must be judge, judge=FOLDER, clip, clip=NAME:PRETRAINED, clip=FOLDER, "
        f"nudenet=PRESET or file.py:function, or several joined by +; got {word!r}. "
        f"Known: {', '.join(CRITERIA.names())}."
    )
