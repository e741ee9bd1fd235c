"""Pictures that a method learns from: latents with a prompt each, and what to gather of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from erasure.models.diffusion.model import DiffusionModel
from erasure.training.progress import shown


@dataclass(frozen=True)
class Pictures:
    """Latents (n, c, h, w) with a prompt each.

    For forgetting also the prompt of what to draw instead.
    """

    latents: Tensor
    prompts: list[str]
    anchors: list[str]

    def only(self, wanted: Sequence[bool]) -> "Pictures":
        """Those of which this is true, in order."""
        rows = [row for row, is_wanted in enumerate(wanted) if is_wanted]
        prompts, anchors = ([texts[i] for i in rows] for texts in (self.prompts, self.anchors))
        return Pictures(self.latents[rows], prompts, anchors)


@dataclass(frozen=True)
class Plan:
    """What to gather: (object, style) pairs or plain prompts, and where images come from.

    With `shows_anchor` the pictures to forget show what is drawn instead, under the same prompts;
    with `has_anchors` a folder has pictures of that as well, for `gather_anchors`. A `retain_count`
    of 0 gathers none to keep.
    """

    images: str
    forget_count: int
    retain_count: int
    retain_prompts: str  # a file; none, if it is empty
    sampling_steps: int
    guidance: float
    shows_anchor: bool = False
    has_anchors: bool = False


def encoded(model: DiffusionModel, images: Sequence[Tensor]) -> Tensor:
    """Latents (n, c, h, w) on the CPU of images (3, h, w), as many at once as their size allows."""
    if not images:
        return torch.zeros(0, *model.latent_shape)
    parts = torch.stack(list(images)).split(model.images_at_once)
    return torch.cat([model.to_latents(part) for part in shown(parts, "encoding images")]).cpu()
