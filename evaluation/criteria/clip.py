"""Zero-shot CLIP: of several sentences, the concept's is nearest to the image."""

from dataclasses import dataclass
from typing import Self

from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from erasure.errors import SettingError
from erasure.models.diffusion.load import POCKET
from erasure.models.diffusion.model import DiffusionModel
from erasure.registry import CRITERIA
from erasure_datasets.concept import Concept, common_names
from evaluation.criteria import Criterion
from evaluation.drawing.pocket_plan import is_pocket
from evaluation.metrics.clip_score import NamedClip, PocketClip, TextImageModel


@CRITERIA.register
@dataclass(frozen=True)
class ClipLabel(Criterion):
    """Zero-shot CLIP: of several sentences, the first, the concept's, is nearest to the image."""

    clip: TextImageModel
    sentences: tuple[str, ...]

    @classmethod
    def of(cls, value: str, model: DiffusionModel, concept: Concept) -> Self:
        if not value and not is_pocket(model):
            raise SettingError(
                f"{model.name} ships no CLIP; name one of open_clip's as "
                "clip=NAME:PRETRAINED, such as clip=ViT-B-32:laion2b_s34b_b79k."
            )
        clip = NamedClip(value, model.device) if value else PocketClip(POCKET, model.device)
        return cls(clip, _sentences(model, concept))

    @property
    def name(self) -> str:
        return f"{self.clip.name} says {self.sentences[0]!r} of {len(self.sentences)}"

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Bool[Tensor, " n"]:
        return self._cosines(images).argmax(1) == 0

    def probability(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
        """At CLIP's own temperature, 1/100 (Radford et al. 2021)."""
        return (100 * self._cosines(images)).softmax(1)[:, 0]

    def _cosines(self, images: Tensor) -> Float[Tensor, "n s"]:
        texts = self.clip.embed_texts(list(self.sentences))
        return (self.clip.embed_images(images) @ texts.T).float().cpu()


def _sentences(model: DiffusionModel, concept: Concept) -> tuple[str, ...]:
    """The concept's shortest sentence first, then the same of its neighbours."""
    catalogue = model.catalogue
    if catalogue is not None and concept.name in catalogue.targets():
        own = catalogue.styles if concept.name in catalogue.styles else catalogue.objects
        wording = "an image in {} style" if own is catalogue.styles else "an image of a {}"
    else:
        own = common_names("styles" if concept.kind == "style" else "objects")
        wording = "a painting in the style of {}" if concept.kind == "style" else "a photo of a {}"
    others = [name for name in own if name.lower() != concept.name.lower()]
    return tuple(wording.format(name) for name in (concept.name, *others))
