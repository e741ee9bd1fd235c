"""SSD: dampen the weights that matter far more to the forgotten than to everything.

Changes: the weights that matter far more to the forgotten classes.

Foster, Schoepf, Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic
Dampening" (AAAI 2024), https://arxiv.org/abs/2308.07707; without labels: "Loss-Free Machine
Unlearning" (2024), https://arxiv.org/abs/2402.19308.

    I_D = mean over batches of (grad CE)^2 on all images, I_f the same on those to forget
    theta <- theta min(1, lambda I_D / I_f)   where I_f > alpha I_D

`label_free` takes |grad mean |f(x)|^2| instead of (grad CE)^2. Nothing is trained.

Choices
- The squared gradient of a batch mean depends on the batch size, as published; 64 there and here.
  The images are shuffled, those to forget too, since a batch of one class has another mean.
- Where nothing else pulls, I_f exceeds I_D at most by the square of how many images there are for
  each to forget. In a sequence that falls; with an alpha above it next to nothing is selected.
- "All images" are those at hand: retain and forget together, without those of earlier requests.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.forgetting import Request
from erasure.models.classifier.classifier import Classifier
from erasure.registry import METHODS
from erasure.training.learner import trainable
from erasure.training.run import Run
from erasure_datasets.labelled import Labelled


@METHODS.register
@dataclass(frozen=True)
class SSD:
    """Selective Synaptic Dampening."""

    without_effect: ClassVar = ("mixed_precision",)

    selection: float = setting(5.0, help="how many times I_f must exceed I_D (alpha)", above=0)
    dampening: float = setting(1.0, help="lambda", above=0)
    batch_size: int = setting(64, help="images per gradient", at_least=1)
    label_free: bool = setting(False, help="importances without labels")
    select: str = setting("all", help="which weights: all, mlp, attention, head, or a pattern")

    def __post_init__(self) -> None:
        check(self)

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        weights = model.weights(self.select)
        model.remember(list(weights))
        forget, retain = request.forget, request.retain
        everything = forget.and_then(retain)
        mattering, to_forgotten = (
            self._importance(model, weights, shuffled(part, run.generator_for(name)), run)
            for part, name in ((everything, request.stage), (forget, f"{request.stage} forget"))
        )
        with torch.no_grad():
            for name, weight in weights.items():
                weight.mul_(
                    dampening(mattering[name], to_forgotten[name], self.selection, self.dampening)
                )

    def _importance(
        self, model: Classifier, weights: dict[str, nn.Parameter], part: Labelled, run: Run
    ) -> dict[str, Tensor]:
        """The mean importance of every weight over batches, by name."""
        sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        batches = list(
            zip(part.images.split(self.batch_size), part.labels.split(self.batch_size), strict=True)
        )
        with trainable(weights), run.progress("importance", len(batches)) as bar:
            for images, labels in run.tried(batches):
                logits = model.forward(model.prepare(images))[1]
                loss = (
                    logits.square().sum(1).mean()
                    if self.label_free
                    else F.cross_entropy(logits, labels.to(model.device))
                )
                gradients = torch.autograd.grad(loss, list(weights.values()))
                for name, gradient in zip(weights, gradients, strict=True):
                    sums[name] += gradient.abs() if self.label_free else gradient.square()
                bar.advance()
        return {name: total / len(batches) for name, total in sums.items()}


def dampening(everything: Tensor, forgotten: Tensor, selection: float, strength: float) -> Tensor:
    """The factor on each weight: 1 outside the selection, at most 1 in it."""
    factor = (strength * everything / forgotten).clamp(max=1)  # 0 / 0 is not selected
    return torch.where(forgotten > selection * everything, factor, torch.ones_like(factor))


def shuffled(part: Labelled, generator: torch.Generator) -> Labelled:
    """The same images in another order, so that no batch holds one class alone."""
    return part.at(torch.randperm(len(part), generator=generator).tolist())
