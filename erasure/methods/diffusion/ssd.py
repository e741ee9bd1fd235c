"""SSD: dampen the weights that matter far more to the concept's pictures than to all pictures.

Changes: of all the UNet's weights those that matter far more to the concept; any with --select.

Foster, Schoepf, Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic
Dampening" (AAAI 2024), https://arxiv.org/abs/2308.07707, which is about classifiers; the loss here
is what a diffusion model is trained on:

    l       mean (predict(x_t, t, c) - target)^2 over a batch of pictures x with their prompts c
    I_D     mean over batches of (grad l)^2 on pictures to keep and of the concept together
    I_f     the same on those of the concept
    theta <- theta min(1, lambda I_D / I_f)   where I_f > alpha I_D

Nothing is trained, and no anchor is drawn instead.

Choices
- A batch's pictures, times and noise are drawn at random, as in training; the paper passes over its
  images once. The squared gradient of a batch mean depends on the batch size, as published.
- "All images" are those gathered to forget and to keep: so many of each as their settings say, not
  the model's training set.
- alpha and lambda are the paper's for its ResNet.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from erasure.config import check, setting
from erasure.edit import Edit
from erasure.methods.shared.dampening import dampen, importances
from erasure.methods.shared.training_data import Pictures, Plan, draw, gather, noise_loss
from erasure.models.diffusion.model import DiffusionModel
from erasure.registry import METHODS
from erasure.training.run import Run
from erasure_datasets.concept import Concept


@METHODS.register
@dataclass(frozen=True)
class SSD:
    """Selective Synaptic Dampening."""

    # squared gradients are too small for less than float32, and nothing is trained
    without_effect: ClassVar = ("anchor", "mixed_precision", "use_8bit_adam", "sample_every")

    selection: float = setting(10.0, help="how many times I_f must exceed I_D (alpha)", above=0)
    dampening: float = setting(1.0, help="lambda", above=0)
    batches: int = setting(100, quick=10, rehearsal=3, help="gradients per importance", at_least=1)
    batch_size: int = setting(8, help="images per gradient", at_least=1)
    select: str = setting(
        "full", help="which weights: full, xattn, xattn.kv, noxattn, selfattn, or a pattern"
    )
    images: str = setting(
        "auto", help="auto (the model's data set, else generated), generated, or a folder"
    )
    forget_images: int = setting(
        100, rehearsal=16, help="how many images of the concept", at_least=1
    )
    retain_images: int = setting(700, rehearsal=16, help="how many images to keep", at_least=1)
    sampling_steps: int = setting(
        50, quick=12, rehearsal=2, help="DDIM steps for generated images", at_least=1
    )
    guidance: float = setting(7.5, help="guidance for generated images", at_least=0)
    retain_prompts: str = setting("", help="file of prompts (.csv, .txt, .json): what to keep")

    def __post_init__(self) -> None:
        check(self)

    def erase(self, model: DiffusionModel, concepts: list[Concept], run: Run) -> Edit:
        weights = model.weights(self.select)
        model.remember(list(weights))
        retain_file = Path(self.retain_prompts) if self.retain_prompts else None
        plan = Plan(
            self.images, self.forget_images, self.retain_images, retain_file, self.sampling_steps,
            self.guidance,
        )  # fmt: skip
        forget, retain = gather(model, concepts, plan, run)
        everything = Pictures(
            torch.cat([forget.latents, retain.latents]), forget.prompts + retain.prompts,
            forget.anchors + retain.anchors,
        )  # fmt: skip
        with model.memorised(["", *everything.prompts]):
            mattering, to_concept = (
                self._importances(model, weights, pictures, run)
                for pictures in (everything, forget)
            )
        dampen(weights, mattering, to_concept, selection=self.selection, strength=self.dampening)
        return Edit.between(model, concepts, "ssd", asdict(self))

    def _importances(
        self, model: DiffusionModel, weights: dict[str, nn.Parameter], pictures: Pictures, run: Run
    ) -> dict[str, Tensor]:
        def loss(_number: int) -> Tensor:
            return noise_loss(model, draw(pictures, self.batch_size, model, run))

        return importances(
            weights, range(self.batches), loss, run, grows_with=("batches", "batch_size")
        )
