"""Relearning: fine-tune the erased model on a few images of the concept, and count the steps.

The plain noise-prediction loss on `images` pictures; every `every` steps all cases are drawn, and
it ends once half of them show the concept, or after `steps`. What the weights still hold comes back
in fewer steps than what they never knew: `random_steps` in the report is the same count for the
same network with its weights shuffled.

Choices
- The pictures are latents that the model from before the erasure draws for the concept's prompts.
- The weights are those of `select`; they are put back afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from erasure.config import check, setting
from erasure.registry import ATTACKS
from evaluation.attacking.scene import KEPT, Case, Found, Scene, Targets
from evaluation.attacking.tuning import BACK, Tuning, put_back, shuffled, tune
from evaluation.attacks import Attack


@ATTACKS.register
@dataclass(frozen=True)
class Relearn(Attack):
    """Fine-tuning on a few images."""

    changes_weights: ClassVar[bool] = True

    images: int = setting(8, help="pictures of the concept", at_least=1)
    steps: int = setting(100, quick=4, help="steps at most", at_least=1)
    every: int = setting(10, quick=2, help="steps between drawings", at_least=1)
    learning_rate: float = setting(1e-5, help="Adam's learning rate", above=0)
    batch_size: int = setting(4, help="pictures per step", at_least=1)
    select: str = setting("full", help="which weights learn: full, xattn, text, or a pattern")

    def __post_init__(self) -> None:
        check(self)

    def attack(self, scene: Scene, cases: Sequence[Case]) -> list[Found]:
        weights = scene.model.weights(self.select)
        targets, prompts = self._pictures(scene)
        with put_back(weights):
            won, step = tune(scene, cases, targets, prompts, self._how(), weights, KEPT)
        return [
            Found(success, step, case.prompt)
            for success, case in zip(won.tolist(), cases, strict=True)
        ]

    def told(
        self, scene: Scene, cases: Sequence[Case], entries: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Steps it took, whether the concept came back, and the same of random weights."""
        random_steps = self.random_steps(scene, cases)
        return {
            "steps": max(entry["found"]["tries"] for entry in entries if entry["found"]),
            "came_back": 2 * sum(entry["success"] for entry in entries) >= len(entries),
            "random_steps": random_steps,
            "random_is_cut": random_steps is None and scene.is_over,
        }

    def random_steps(self, scene: Scene, cases: Sequence[Case]) -> int | None:
        """The same count with the weights of `select` shuffled; None if it never got there."""
        weights = scene.model.weights(self.select)
        targets, prompts = self._pictures(scene)
        with shuffled(weights, scene.generator("random weights")):
            won, step = tune(scene, cases, targets, prompts, self._how(), weights, None)
            return step if won.float().mean() >= BACK else None

    def _pictures(self, scene: Scene) -> tuple[Targets, list[str]]:
        asked = scene.concept.prompts()
        prompts = [asked[i * len(asked) // self.images % len(asked)] for i in range(self.images)]
        return scene.targets(prompts, "relearning images"), prompts

    def _how(self) -> Tuning:
        return Tuning("relearn", self.steps, self.every, self.learning_rate, self.batch_size)
