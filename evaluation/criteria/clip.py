"""Zero-shot CLIP: of several sentences, the concept's is nearest to the image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from erasure.errors import SettingError
from erasure.models.diffusion.model import DiffusionModel
from erasure.registry import CRITERIA
from erasure_datasets.concept import TEMPLATES, Concept, filled, has_article
from erasure_datasets.mentions import mentions
from erasure_datasets.prompt_files import built_in
from evaluation.criteria import Criterion
from evaluation.drawing.pocket_plan import is_pocket
from evaluation.metrics.clip_score import TextImageModel, find_clip


@CRITERIA.register
@dataclass(frozen=True)
class ClipLabel(Criterion):
    """Zero-shot CLIP: of the sentence with each name, that of the first is nearest to the image.

    The first name is the concept's; the others are what an image could show instead.
    """

    clip: TextImageModel
    names: tuple[str, ...]
    wording: str  # a template, as concepts have them
    bare: str = ""  # the name that takes no article

    @classmethod
    def of(cls, value: str, model: DiffusionModel, concept: Concept) -> Self:
        if not value and not is_pocket(model):
            raise SettingError(
                f"{model.name} ships no CLIP; name one of open_clip's as "
                "clip=NAME:PRETRAINED, such as clip=ViT-B-32:laion2b_s34b_b79k."
            )
        names, wording = _names(model, concept)
        bare = concept.name if concept.kind in ("person", "unsafe") else ""
        return cls(find_clip(value or "pocket", model.device), names, wording, bare)

    @property
    def name(self) -> str:
        return f"{self.clip.name} says {self._sentence(self.names[0])!r} of {len(self.names)}"

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Bool[Tensor, " n"]:
        return self._cosines(images).argmax(1) == 0

    def probability(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """At CLIP's own temperature, 1/100 (Radford et al. 2021)."""
        return (100 * self._cosines(images)).softmax(1)[:, 0]

    def among(self, names: Sequence[str]) -> Self:
        return replace(self, names=_told_apart([self.names[0], *names]))

    def of_another(self, name: str) -> Self:
        return replace(self, names=_told_apart([name, *self.names]))

    @cached_property
    def _texts(self) -> Float[Tensor, "s d"]:
        return self.clip.embed_texts([self._sentence(name) for name in self.names])

    def _cosines(self, images: Tensor) -> Float[Tensor, "n s"]:
        return (self.clip.embed_images(images) @ self._texts.T).float().cpu()

    def _sentence(self, name: str) -> str:
        is_proper = name == self.bare or name[:1].isupper()
        return filled(self.wording.replace("{a ", "{") if is_proper else self.wording, name)


def _names(model: DiffusionModel, concept: Concept) -> tuple[tuple[str, ...], str]:
    """(the concept's name, then what else there is; the sentence about each)."""
    catalogue = model.catalogue
    if catalogue is not None and concept.name in catalogue.targets():
        is_style = concept.name in catalogue.styles
        own = catalogue.styles if is_style else catalogue.objects
        wording = "an image in {name} style" if is_style else "an image of a {name}"
        return (concept.name, *(name for name in own if name != concept.name)), wording
    wording = TEMPLATES["style" if concept.kind == "style" else "object"][1]
    return _told_apart([concept.name, *instead_of(concept), *everyday(concept)]), wording


def instead_of(concept: Concept) -> list[str]:
    """The anchor's bare name, if there is one."""
    name = concept.anchor
    return [name.partition(" ")[2].strip() if has_article(name) else name] if name else []


def everyday(concept: Concept) -> tuple[str, ...]:
    """The built-in names of what an image of the concept's kind could show."""
    kinds = {"style": "styles", "person": "people", "unsafe": "people"}
    return built_in(kinds.get(concept.kind, "objects"))


def _told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """The first name, and each other that is neither it nor one more of its kind: no "old cat"."""
    first = names[0]
    others = (n for n in names[1:] if not (mentions(n, first) or mentions(first, n)))
    return (first, *dict.fromkeys(others))
