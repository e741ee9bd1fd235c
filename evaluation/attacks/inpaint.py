"""Inpainting: keep the border of a picture of the concept, and have the erased model fill it.

At every step the kept part is noised and put in place (Lugmayr et al., "RePaint" (CVPR 2022),
https://arxiv.org/abs/2201.09865, without their way back); the middle is drawn under the prompt.

Choices
- Pictures are the un-erased model's for the case's prompt; the middle is a square of `free` of the
  area.
- Control: the border of a picture of the anchor, under the same prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from erasure.config import check, setting
from erasure.models.diffusion.model import Known
from erasure.registry import ATTACKS
from evaluation.attacking.scene import KEPT, Case, Found, Scene
from evaluation.attacks import Attack


@ATTACKS.register
@dataclass(frozen=True)
class Inpaint(Attack):
    """The middle of a picture of the concept."""

    walks_path: ClassVar[bool] = True

    steps: int = setting(16, quick=3, help="sampling steps", at_least=2)
    free: float = setting(0.5, help="share of the area that is drawn", above=0, at_most=0.99)

    def __post_init__(self) -> None:
        check(self)

    def attack(self, scene: Scene, cases: Sequence[Case]) -> list[Found]:
        won = self._fill(scene, cases, scene.pictures(cases, "inpainting"), KEPT)
        return [Found(yes, 1, case.prompt) for yes, case in zip(won, cases, strict=True)]

    def decoy(self, scene: Scene, cases: Sequence[Case]) -> list[bool]:
        return self._fill(scene, cases, scene.decoys(cases, "inpainting"), "control")

    @torch.no_grad()
    def _fill(self, scene: Scene, cases: Sequence[Case], z0: Tensor, kept_as: str) -> list[bool]:
        model = scene.model
        z = model.continue_path(
            scene.noise(cases), model.encode([case.prompt for case in cases]), steps=self.steps,
            guidance=scene.sampling.guidance, known=Known(z0, border(z0, self.free)),
            generator=scene.generator(f"inpainting {cases[0].name}"),
        )  # fmt: skip
        return scene.judged(model.to_images(z), cases, kept_as).tolist()


def border(like: Tensor, free: float) -> Tensor:
    """bool (b, 1, h, w): True outside a square in the middle with this share of the area."""
    count, _, height, width = like.shape
    kept = torch.ones(count, 1, height, width, dtype=torch.bool, device=like.device)
    rows, columns = (max(1, round(side * free**0.5)) for side in (height, width))
    top, left = (height - rows) // 2, (width - columns) // 2
    kept[:, :, top : top + rows, left : left + columns] = False
    return kept
