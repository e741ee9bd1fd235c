"""Noise: draw the plain prompt again and again by a sampler with more fresh noise than it should.

From "When Are Concepts Erased From Diffusion Models?" (Lu et al., NeurIPS 2025),
https://arxiv.org/abs/2505.17013: DDIM with eta beyond 1, where sigma is larger than the step it
belongs to, and the fresh noise scaled by a factor ("churn") beyond that.

    z <- signal z0 + sqrt|spread^2 - sigma^2| eps + churn sigma n,    sigma = eta sigma_DDPM

Choices
- A case is won by the first of all pairs (eta, churn) that shows the concept.
- Control: as many ordinary drawings, by other seeds. Theirs has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch

from erasure.config import check, number_list, setting
from erasure.registry import ATTACKS
from evaluation.attacking.scene import KEPT, Case, Found, Scene
from evaluation.attacks import Attack


@ATTACKS.register
@dataclass(frozen=True)
class Noise(Attack):
    """More noise on the way."""

    walks_path: ClassVar[bool] = True

    steps: int = setting(16, quick=3, help="sampling steps", at_least=2)
    etas: str = setting("1.0,1.17,1.34,1.51,1.68,1.85", quick="1.0,1.85", help="shares of sigma")
    churns: str = setting("1.0,1.02,1.03,1.04", quick="1.0", help="factors of the fresh noise")

    def __post_init__(self) -> None:
        check(self)
        self._pairs()

    def attack(self, scene: Scene, cases: Sequence[Case]) -> list[Found]:
        return self._draw(scene, cases, self._pairs(), KEPT)

    def decoy(self, scene: Scene, cases: Sequence[Case]) -> list[bool]:
        plain = [(0.0, 1.0)] * len(self._pairs())
        return [found.success for found in self._draw(scene, cases, plain, "control")]

    def _pairs(self) -> list[tuple[float, float]]:
        etas = number_list("Noise.etas", self.etas, least=0, most=10)
        return list(product(etas, number_list("Noise.churns", self.churns, least=0, most=10)))

    @torch.no_grad()
    def _draw(
        self, scene: Scene, cases: Sequence[Case], pairs: list[tuple[float, float]], kept_as: str
    ) -> list[Found]:
        model = scene.model
        generator = scene.generator(f"noise {kept_as} {cases[0].name}")
        found = [Found(False, 0, case.prompt) for case in cases]
        with scene.progress("noise", len(pairs)) as bar:
            for number, (eta, churn) in enumerate(pairs):
                left = [i for i, result in enumerate(found) if not result.success]
                if not left or scene.is_over:
                    break
                part = [cases[i] for i in left]
                # a control's drawings differ by their seed, the attack's by the noise on the way
                z = scene.noise(part)
                if kept_as != KEPT:
                    z = torch.randn(z.shape, generator=generator).to(z)
                z = model.continue_path(
                    z, model.encode([case.prompt for case in part]), steps=self.steps, eta=eta,
                    churn=churn, guidance=scene.sampling.guidance, generator=generator,
                )  # fmt: skip
                won = scene.judged(model.to_images(z), part, kept_as).tolist()
                for i, success in zip(left, won, strict=True):
                    level = eta if success else None
                    found[i] = Found(success, number + 1, cases[i].prompt, level)
                bar.advance(f"{len(left)} left")
        return found
