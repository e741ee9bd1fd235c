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
- "All images" are those at hand: retain and forget together, without those of earlier requests.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.forgetting import Request
from erasure.methods.shared.dampening import dampen, importances
from erasure.models.classifier.classifier import Classifier
from erasure.registry import METHODS
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
            self._importances(model, weights, shuffled(part, run.generator_for(name)), run)
            for part, name in ((everything, request.stage), (forget, f"{request.stage} forget"))
        )
        dampen(weights, mattering, to_forgotten, selection=self.selection, strength=self.dampening)

    def _importances(
        self, model: Classifier, weights: dict[str, nn.Parameter], part: Labelled, run: Run
    ) -> dict[str, Tensor]:
        def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
            logits = model.forward(model.prepare(batch[0]))[1]
            if self.label_free:
                return logits.square().sum(1).mean()
            return F.cross_entropy(logits, batch[1].to(model.device))

        size = self.batch_size
        batches = list(zip(part.images.split(size), part.labels.split(size), strict=True))
        return importances(weights, batches, loss, run, is_squared=not self.label_free)


def shuffled(part: Labelled, generator: torch.Generator) -> Labelled:
    """The same images in another order, so that no batch holds one class alone."""
    return part.at(torch.randperm(len(part), generator=generator).tolist())
