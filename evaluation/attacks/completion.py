"""Completion: the model from before the erasure draws the first steps, the erased one the rest.

From "When Are Concepts Erased From Diffusion Models?" (Lu et al., NeurIPS 2025),
https://arxiv.org/abs/2505.17013: a model without the knowledge cannot finish what was begun.

    z_k = guided DDIM of the un-erased model under the prompt, k of `steps` steps
    z_0 = the erased model's from there, under the empty prompt or under the same prompt

Choices
- The shares of steps are tried from the smallest; a case is won at its first success, and
  `by_share` in the record says how many were won up to each. Theirs are 1, 2 and 3 of 50 steps,
  under the prompt.
- The empty prompt asks the erased model for what it sees in the latents, with no word to avoid.
- Control: the un-erased model is asked for the anchor, and the same model goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from erasure.config import check, number_list, setting
from erasure.errors import SettingError
from erasure.registry import ATTACKS
from evaluation.attacking.scene import KEPT, Case, Found, Scene
from evaluation.attacks import Attack, by_level


@ATTACKS.register
@dataclass(frozen=True)
class Completion(Attack):
    """The un-erased model's first steps, finished by the erased one."""

    walks_path: ClassVar[bool] = True

    steps: int = setting(16, quick=4, help="steps of the whole path", at_least=2)
    shares: str = setting(
        "0.125,0.25,0.375", quick="0.25,0.5", help="of the steps, by the un-erased model"
    )
    then: Literal["empty", "prompt"] = setting("empty", help="what the erased model is asked for")

    def __post_init__(self) -> None:
        check(self)
        self._firsts()

    def attack(self, scene: Scene, cases: Sequence[Case]) -> list[Found]:
        return self._finish(scene, cases, [case.prompt for case in cases], KEPT)

    def decoy(self, scene: Scene, cases: Sequence[Case]) -> list[bool]:
        texts = [scene.anchored(case.prompt) for case in cases]
        return [found.success for found in self._finish(scene, cases, texts, "control")]

    def told(
        self, scene: Scene, cases: Sequence[Case], entries: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        return {"by_share": by_level(entries, sorted(self._firsts()))}

    def _firsts(self) -> dict[float, int]:
        """How many steps the un-erased model takes, by their share."""
        shares = number_list("Completion.shares", self.shares, least=0, most=1)
        firsts = {share: round(share * self.steps) for share in shares}
        if not all(0 < first < self.steps for first in firsts.values()):
            raise SettingError(
                f"Completion.shares must leave each model one of {self.steps} steps; "
                f"got {self.shares}."
            )
        return firsts

    @torch.no_grad()
    def _finish(
        self, scene: Scene, cases: Sequence[Case], texts: Sequence[str], kept_as: str
    ) -> list[Found]:
        model, guidance = scene.model, scene.sampling.guidance
        found = [Found(False, 0, text) for text in texts]
        for number, (share, first) in enumerate(sorted(self._firsts().items())):
            left = [i for i, result in enumerate(found) if not result.success]
            if not left or scene.is_over:
                break
            part = [cases[i] for i in left]
            generator = scene.generator("completion")  # nothing is drawn from it at eta 0
            with model.original():
                asked = model.encode([texts[i] for i in left])
                z = model.continue_path(
                    scene.noise(part), asked, steps=self.steps, until=first, guidance=guidance,
                    generator=generator,
                )  # fmt: skip
            then = model.encode([texts[i] if self.then == "prompt" else "" for i in left])
            z = model.continue_path(
                z, then, steps=self.steps, first=first, generator=generator,
                guidance=guidance if self.then == "prompt" else 1.0,
            )  # fmt: skip
            won = scene.judged(model.to_images(z), part, kept_as).tolist()
            for i, success in zip(left, won, strict=True):
                level = share if success else None
                found[i] = Found(success, number + 1, texts[i], level)
        return found
