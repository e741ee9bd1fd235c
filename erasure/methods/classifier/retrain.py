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

from torch import Tensor
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.errors import SettingError
from erasure.forgetting import Request
from erasure.models.classifier.classifier import Classifier, reinitialise
from erasure.registry import METHODS
from erasure.training.averages import Average, share_of_step
from erasure.training.batches import augmented, labelled
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.optimisers import Optimiser
from erasure.training.processes import average
from erasure.training.run import Run
from erasure_datasets.classes import Labelled

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
        if statistics and self.batch_size < run.whole(2):
            raise SettingError(
                f"Retrain.batch_size must be at least {run.whole(2)}, 2 images for each process: "
                f"{model.name} has BatchNorm, and one image has no spread; got {self.batch_size}."
            )
        model.remember([*weights, *statistics])
        train_anew(
            model, request.retain, run, stage=request.stage, steps=self.steps,
            learning_rate=self.learning_rate, batch_size=self.batch_size,
        )  # fmt: skip


def train_anew(
    model: Classifier, part: Labelled, run: Run, *, stage: str, steps: int, learning_rate: float,
    batch_size: int,
) -> None:  # fmt: skip
    """Train a classifier in place on labelled images, from random weights."""
    weights, statistics = model.weights("all"), model.buffers()
    reinitialise(model.network, run.generator_for(f"{stage} weights"))
    numbers = {n: tensor for n, tensor in statistics.items() if tensor.is_floating_point()}
    mean = Average({**weights, **numbers})

    def loss(step: int) -> dict[str, Tensor]:
        mean.follow(share_of_step(step, AVERAGE))
        x, right = labelled(model, part, batch_size, step, run, f"{stage} retain")
        with model.learning_statistics():
            logits = model.forward(augmented(x, run))[1]
        average(list(numbers.values()))  # each process saw its own part of the batch
        return {"retain": F.cross_entropy(logits, right, label_smoothing=0.05)}

    by = Optimiser("muon", weight_decay=0.01, cosine=True)
    fit(
        Learner(loss, weights, learning_rate, by), steps=steps, run=run, stage=stage,
        carried={**statistics, **{f"mean.{name}": value for name, value in mean.means.items()}},
    )  # fmt: skip
    mean.follow(share_of_step(steps, AVERAGE))
    mean.put()
