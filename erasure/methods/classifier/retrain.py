"""Retrain: a new model that never saw the forgotten classes, the standard the others are held to.

Changes: all weights, and BatchNorm's statistics, trained anew.

    loss    CE(retain), label smoothing 0.05, from random weights

Choices
- The head keeps its size, so that every figure is over the same classes; nothing ever asks for the
  forgotten ones, and earlier requests' classes are left out as well.
- The recipe is that of the pocket suite's judges: Muon on the matrices, AdamW on the rest, shifted,
  mirrored and recoloured images, an average of the weights at the end. It needs many images per
  class: give `--images`.
- BatchNorm learns its statistics with the weights, and they are averaged as the weights are.
- Each request starts from random weights again; a sequence is retrained once per request.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.forgetting import Request
from erasure.models.classifier.classifier import Classifier, reinitialise
from erasure.registry import METHODS
from erasure.training.batches import augmented, labelled
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.optimisers import Optimiser
from erasure.training.processes import average
from erasure.training.run import Run

AVERAGE = 0.995


@METHODS.register
@dataclass(frozen=True)
class Retrain:
    """Training from scratch on what is kept."""

    steps: int = setting(3000, quick=100, help="optimiser steps", at_least=1)
    learning_rate: float = setting(1e-3, help="of both optimisers, falling by a cosine", above=0)
    batch_size: int = setting(128, help="images per step", at_least=1)

    def __post_init__(self) -> None:
        check(self)

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        weights, statistics = model.weights("all"), model.buffers()
        model.remember([*weights, *statistics])
        reinitialise(model.network, run.generator_for(f"{request.stage} weights"))
        numbers = {n: tensor for n, tensor in statistics.items() if tensor.is_floating_point()}
        moving = {**weights, **numbers}
        means = {name: tensor.detach().clone() for name, tensor in moving.items()}
        part = request.retain

        @torch.no_grad()
        def follow(step: int) -> None:
            share = 1 - min(AVERAGE, (1 + step) / (10 + step))
            for name, tensor in moving.items():
                means[name].lerp_(tensor.detach(), share)

        def loss(step: int) -> dict[str, Tensor]:
            follow(step)
            x, right = labelled(model, part, self.batch_size, step, run, f"{request.stage} retain")
            with model.learning_statistics():
                logits = model.forward(augmented(x, run))[1]
            average(list(numbers.values()))  # each process saw its own part of the batch
            return {"retain": F.cross_entropy(logits, right, label_smoothing=0.05)}

        by = Optimiser("muon", weight_decay=0.01, cosine=True)
        fit(
            Learner(loss, weights, self.learning_rate, by), steps=self.steps, run=run,
            stage=request.stage,
            carried={**statistics, **{f"mean.{name}": value for name, value in means.items()}},
        )  # fmt: skip
        follow(self.steps)
        with torch.no_grad():
            for name, tensor in moving.items():
                tensor.copy_(means[name])
