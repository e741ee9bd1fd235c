"""SalUn: relabel the concept as its anchor, changing only the weights that matter most for it.

Changes: the most salient share of the UNet's weights; of any with --select.

Fan, Liu, Zhang, Wong, Wei, Liu, "SalUn: Empowering Machine Unlearning via Gradient-based Weight
Saliency in Both Image Classification and Generation" (ICLR 2024), https://arxiv.org/abs/2310.12508.

    mask   m = 1 for the `keep` share of weights with the largest |sum over batches of grad L_f|,
               L_f the guided noise loss on images of the concept (eq. 4, with a global ranking)
    loss   mean (eps(x_f, t, c) - sg[eps(x_f, t, anchor)])^2
               + alpha * mean (eps(x_r, t, c_r) - noise)^2  (eq. 7)
    step   the gradient is multiplied by m

Choices
- Signed gradients are summed, then made absolute, as the authors' code does. Every image weighs
  alike; theirs sums the batches' means, so that each image of a short last batch weighs more.
- `score=wagle` and `random` rank otherwise, for comparison: see shared/saliency.py. WAGLE's g_f is
  the same sum; g_r is of the retain term, without guidance.
- Ties in the ranking go to the weight that comes first, so a mask is the same on every machine.
- Both branches of the forget term see the same x_f and t; the authors' script encodes twice.
- The target is the current model under stop-gradient, as the authors' code has it;
  `target=original` asks the original model instead.
- Images are drawn with replacement and their latents are the autoencoder's modes; the authors walk
  whole epochs of the forget set and sample the posterior.
- The published command is 5 epochs on about 900 images; `steps` counts the same in batches of 8.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.edit import Edit
from erasure.files.storage import write_tensors
from erasure.methods.shared.noise_gradients import gradient_moments, guided_gradients
from erasure.methods.shared.saliency import (
    MaskScore,
    attributions,
    largest,
    random_scores,
    read_masks,
)
from erasure.methods.shared.training_data import Pictures, Plan, draw, gather
from erasure.models.diffusion.model import DiffusionModel
from erasure.registry import METHODS
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.run import Run
from erasure_datasets.concept import Concept


@METHODS.register
@dataclass(frozen=True)
class SalUn:
    """Saliency unlearning."""

    steps: int = setting(590, quick=60, help="optimiser steps", at_least=1)
    learning_rate: float = setting(1e-5, help="Adam's learning rate", above=0)
    batch_size: int = setting(8, help="images to forget, and images to keep, per step", at_least=1)
    retain_weight: float = setting(
        0.5, help="weight of the retain loss (alpha in the paper)", at_least=0
    )
    keep: float = setting(
        0.5,
        help="share of the selected weights that the mask lets change",
        above=0,
        at_most=1,
        when="not mask",
    )
    select: str = setting(
        "full", help="which weights: full, xattn, xattn.kv, noxattn, selfattn, or a pattern"
    )
    target: Literal["current", "original"] = setting("current", help="which model draws the anchor")
    score: MaskScore = setting(
        "magnitude",
        help="what the mask ranks: the gradient, WAGLE's attribution, or chance",
        when="not mask",
    )
    mask: str = setting("", help="reuse the mask in this .safetensors file")
    mask_guidance: float = setting(
        7.5,
        help="w in the mask's prediction (1 + w) eps(c) - w eps('')",
        at_least=0,
        when="not mask",
    )
    images: str = setting(
        "auto", help="auto (the model's data set, else generated), generated, or a folder"
    )
    forget_images: int = setting(
        800, rehearsal=16, help="how many images of the concept", at_least=1
    )
    retain_images: int = setting(800, rehearsal=16, help="how many images to keep", at_least=1)
    sampling_steps: int = setting(
        50, quick=12, rehearsal=2, help="DDIM steps for generated images", at_least=1
    )
    guidance: float = setting(7.5, help="guidance for generated images", at_least=0)
    retain_prompts: str = setting(
        "",
        help="file of prompts (.csv, .txt, .json): what to keep",
        when="retain_weight or score=wagle",
    )

    def __post_init__(self) -> None:
        check(self)

    def erase(self, model: DiffusionModel, concepts: list[Concept], run: Run) -> Edit:
        weights = model.weights(self.select)
        model.remember(list(weights))
        run.lower(model.parameters())
        plan = Plan(
            self.images, self.forget_images, self.retain_images, self.retain_prompts,
            self.sampling_steps, self.guidance,
        )  # fmt: skip
        forget, retain = gather(model, concepts, plan, run)
        with model.memorised(["", *forget.prompts, *forget.anchors, *retain.prompts]):
            self._train(model, weights, forget, retain, run)
        return Edit.between(model, concepts, "salun", asdict(self))

    def _train(
        self, model: DiffusionModel, weights: dict[str, nn.Parameter], forget: Pictures,
        retain: Pictures, run: Run,
    ) -> None:  # fmt: skip
        masks = self.saliency(model, forget, retain, run)

        def loss(_step: int) -> dict[str, Tensor]:
            z0, prompts, anchors, t, noise = draw(forget, self.batch_size, model, run)
            z_t = model.add_noise(z0, noise, t)
            with torch.no_grad():
                anchor = model.encode(anchors)
                if self.target == "current":
                    wanted = model.predict(z_t, t, anchor)
                else:
                    with model.original():
                        wanted = model.predict(z_t, t, anchor)
            erase = F.mse_loss(model.predict(z_t, t, model.encode(prompts)), wanted)
            z0, prompts, _, t, noise = draw(retain, self.batch_size, model, run)
            z_t = model.add_noise(z0, noise, t)
            kept = F.mse_loss(
                model.predict(z_t, t, model.encode(prompts)), model.target(z0, noise, t)
            )
            return {"erase": erase, "retain": self.retain_weight * kept}

        fit(
            Learner(loss, weights, self.learning_rate, masks=masks, start=model.originals),
            steps=self.steps, run=run,
        )  # fmt: skip

    def saliency(
        self, model: DiffusionModel, forget: Pictures, retain: Pictures, run: Run
    ) -> dict[str, Tensor]:
        """The mask, one bool tensor per selected weight.

        It is read from `mask`, from this run's folder, or computed.
        """
        weights, stored = model.weights(self.select), run.folder / "mask.safetensors"
        source = Path(self.mask) if self.mask else stored
        if source.is_file() or self.mask:
            return read_masks("SalUn", source, weights, run.device)
        masks = largest(self._scores(model, weights, forget, retain, run), self.keep)
        if run.is_main:
            write_tensors(stored, masks)
        return masks

    def _scores(
        self, model: DiffusionModel, weights: dict[str, nn.Parameter], forget: Pictures,
        retain: Pictures, run: Run,
    ) -> dict[str, Tensor]:  # fmt: skip
        if self.score == "random":
            return random_scores(weights, run.generator_for("mask"))
        gradients = guided_gradients(
            model, weights, forget, run, guidance=1 + self.mask_guidance,
            batch_size=self.batch_size,
        )  # fmt: skip
        if self.score == "magnitude":
            return gradients
        means, squares = gradient_moments(model, weights, retain, run, batch_size=self.batch_size)
        return attributions(weights, gradients, means, squares)
