"""Task vector: learn the concept better, and go the same way backwards.

Changes: all of the UNet's weights; any with --select.

Pham, Marshall, Hegde, Cohen, "Robust Concept Erasure Using Task Vectors" (2024),
https://arxiv.org/abs/2404.03631, with the negation of Ilharco, Ribeiro, Wortsman, Gururangan,
Schmidt, Hajishirzi, Farhadi, "Editing Models with Task Arithmetic" (ICLR 2023),
https://arxiv.org/abs/2212.04089.

    theta_ft   down mean (predict(x_t, t, k) - target)^2, from theta_0
    theta      theta_0 - alpha (theta_ft - theta_0)

x are pictures of the concept, k is the empty prompt or the prompt that draws x, target what
`predict` is trained on. Nothing is drawn instead, and nothing that is kept is looked at.

Choices
- k is the empty prompt by default, so that what is taken away is the knowledge of the pictures and
  not the meaning of a word; `prompts=concept` tunes on each picture under its own prompt.
- alpha is `strength`. Ilharco et al. choose it on held-out tasks, from 0 to 1; Pham et al. by words
  that they invert on the edited model until none draws the concept, and more of it than 1. Here it
  is given: `erasure attack` says whether it was enough.
- Pham et al. take the vector of a part of the weights that they choose by their words; `select`
  names a part, and the fine-tuning moves no other.
- Adam without weight decay, pictures drawn with replacement, as in the other methods here.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from erasure.config import check, setting
from erasure.edit import Edit
from erasure.methods.shared.training_data import Plan, draw, gather, noise_loss
from erasure.models.diffusion.model import DiffusionModel
from erasure.registry import METHODS
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.run import Run
from erasure_datasets.concept import Concept


@METHODS.register
@dataclass(frozen=True)
class TaskVector:
    """Negated fine-tuning."""

    # what learns is drawn on the way to the concept, not away from it
    without_effect: ClassVar = ("anchor", "sample_every")

    strength: float = setting(1.0, help="how far back (alpha in the papers)", above=0)
    steps: int = setting(200, quick=60, help="optimiser steps towards the concept", at_least=1)
    learning_rate: float = setting(1e-5, help="Adam's learning rate", above=0)
    batch_size: int = setting(8, help="images per step", at_least=1)
    prompts: Literal["empty", "concept"] = setting(
        "empty", help="what the images are tuned on under: no prompt, or their own"
    )
    select: str = setting(
        "full", help="which weights: full, xattn, xattn.kv, noxattn, selfattn, or a pattern"
    )
    images: str = setting(
        "auto", help="auto (the model's data set, else generated), generated, or a folder"
    )
    forget_images: int = setting(
        200, rehearsal=16, help="how many images of the concept", at_least=1
    )
    sampling_steps: int = setting(
        50, quick=12, rehearsal=2, help="DDIM steps for generated images", at_least=1
    )
    guidance: float = setting(7.5, help="guidance for generated images", at_least=0)

    def __post_init__(self) -> None:
        check(self)

    def erase(self, model: DiffusionModel, concepts: list[Concept], run: Run) -> Edit:
        weights = model.weights(self.select)
        model.remember(list(weights))
        run.lower(model.parameters())
        plan = Plan(self.images, self.forget_images, 0, "", self.sampling_steps, self.guidance)
        pictures, _ = gather(model, concepts, plan, run)
        if self.prompts == "empty":
            pictures = replace(pictures, prompts=[""] * len(pictures.prompts))

        def loss(_step: int) -> dict[str, Tensor]:
            return {"learn": noise_loss(model, draw(pictures, self.batch_size, model, run))}

        with model.memorised(["", *pictures.prompts]), run.unwatched():
            learner = Learner(loss, weights, self.learning_rate, start=model.originals)
            fit(learner, steps=self.steps, run=run)
        go_back(weights, model.originals, self.strength)
        return Edit.between(model, concepts, "task-vector", asdict(self))


@torch.no_grad()
def go_back(
    weights: Mapping[str, nn.Parameter], start: Mapping[str, Tensor], strength: float
) -> None:
    """Move tuned weights to where `strength` times the way from the start leads backwards."""
    for name, weight in weights.items():
        begun = start[name].to(weight.device)
        weight.copy_(begun - strength * (weight - begun))
