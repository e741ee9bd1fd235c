"""Random labels: teach wrong answers for what is to be forgotten, right ones for the rest.

Changes: all weights; some with --select.

Golatkar, Achille, Soatto, "Eternal Sunshine of the Spotless Net" (CVPR 2020),
https://arxiv.org/abs/1911.04933, as the baselines of SalUn have it:

    loss    CE(forget, random label) + CE(retain, right label)

Choices
- BatchNorm's running statistics stay unless `statistics` says otherwise: those of all images, which
  a few batches of one kind would replace.
- A random label is any other class, drawn afresh at every step; the authors' draw may hit the true
  one. Earlier requests' classes are drawn as well: they are wrong too.
- One batch of each kind per step, under one loss.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.forgetting import Request
from erasure.models.classifier.classifier import Classifier
from erasure.registry import METHODS
from erasure.training.batches import labelled
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.optimisers import Optimiser
from erasure.training.run import Run
from erasure.training.statistics import Statistics


@METHODS.register
@dataclass(frozen=True)
class RandomLabel:
    """Random labels for the forgotten classes."""

    epochs: int = setting(10, quick=2, help="passes over the images to keep", at_least=1)
    learning_rate: float = setting(0.01, help="SGD's", above=0)
    batch_size: int = setting(
        256, help="images to keep per step, and as many to forget", at_least=1
    )
    momentum: float = setting(0.9, help="SGD's", at_least=0, at_most=1)
    weight_decay: float = setting(5e-4, help="SGD's", at_least=0)
    retain_weight: float = setting(1.0, help="weight of the retain term", at_least=0)
    select: str = setting("all", help="which weights: all, mlp, attention, head, or a pattern")
    statistics: bool = setting(
        False, help="let BatchNorm go by each batch, and its statistics follow, as the authors do"
    )

    def __post_init__(self) -> None:
        check(self)

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        weights = model.weights(self.select)
        model.remember(list(weights))
        relabel(self, model, request, weights, None, run)


def relabel(
    settings: RandomLabel, model: Classifier, request: Request, weights: dict[str, nn.Parameter],
    masks: dict[str, Tensor] | None, run: Run,
) -> None:  # fmt: skip
    """Train the weights, or what the masks leave of them, on random labels and right ones."""
    statistics = Statistics.asked(model, settings, learn=settings.statistics)

    def loss(step: int) -> dict[str, Tensor]:
        (x_f, y_f), (x_r, y_r) = (
            labelled(model, part, settings.batch_size, step, run, f"{request.stage} {name}")
            for part, name in ((request.forget, "forget"), (request.retain, "retain"))
        )
        wrong = other_labels(y_f, len(model.labels), run)
        with statistics.learning():
            logits = model.forward(torch.cat([x_f, x_r]))[1]
        return {
            "forget": F.cross_entropy(logits[: len(wrong)], wrong),
            "retain": settings.retain_weight * F.cross_entropy(logits[len(wrong) :], y_r),
        }

    by = Optimiser("sgd", momentum=settings.momentum, weight_decay=settings.weight_decay)
    fit(
        Learner(loss, weights, settings.learning_rate, by, masks=masks), run=run,
        steps=request.steps(settings.epochs, settings.batch_size, request.retain),
        stage=request.stage, carried=statistics.carried,
    )  # fmt: skip


def other_labels(labels: Int[Tensor, " b"], classes: int, run: Run) -> Int[Tensor, " b"]:
    """A random class for each label, never the label itself."""
    count = run.whole(len(labels))
    shift = run.shard(torch.randint(1, classes, (count,), generator=run.generator))
    return (labels + shift) % classes
