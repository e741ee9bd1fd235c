"""How a classifier learns from random weights: what `train` and `retrain` share."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.errors import SettingError
from erasure.models.classifier.classifier import Classifier
from erasure.training.averages import Average, share_of_step
from erasure.training.batches import cropped, labelled
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.optimisers import Optimiser
from erasure.training.processes import average
from erasure.training.run import Run
from erasure_datasets.labelled import Labelled

Kind = Literal["auto", "sgd", "adamw", "muon"]
OWN = {"sgd": (0.1, 5e-4), "adamw": (1e-3, 0.05), "muon": (1e-3, 0.01)}  # (rate, weight decay)


@dataclass(frozen=True)
class Recipe:
    """What a training goes by; `average` is the decay of the average of the weights, 0 for none."""

    by: Optimiser
    rate: float
    batch_size: int
    smoothing: float
    varied: Callable[[Tensor, Run], Tensor]
    average: float = 0.0


@dataclass(frozen=True)
class OneCycle:
    """A learning rate that rises and falls once, over shifted and mirrored images.

    Smith and Topin, "Super-Convergence" (2018), https://arxiv.org/abs/1708.07120.
    """

    epochs: int = setting(20, quick=1, help="passes over the training images", at_least=1)
    optimiser: Kind = setting(
        "auto", help="auto is sgd where there is BatchNorm, else muon, which learns in fewer steps"
    )
    learning_rate: float = setting(
        0.0, help="at its highest; 0 for the optimiser's own: 0.1 for sgd, else 0.001", at_least=0
    )
    batch_size: int = setting(128, help="images per step", at_least=1)
    weight_decay: float = setting(
        -1.0, help="below 0: the optimiser's own, 5e-4, 0.05 or 0.01", at_least=-1
    )
    warmup: float = setting(0.2, help="share of the steps in which the rate rises", at_least=0,
                            at_most=0.9)  # fmt: skip
    label_smoothing: float = setting(0.05, help="share of the target that all classes have",
                                     at_least=0, at_most=0.9)  # fmt: skip
    shift: float = setting(0.125, help="of the images, as a share of their side", at_least=0,
                           at_most=0.5)  # fmt: skip
    mirror: bool = setting(True, help="mirror every other image")

    def __post_init__(self) -> None:
        check(self)

    def recipe(self, model: Classifier) -> Recipe:
        """The recipe for a network, with what is its own choice made."""
        word = self.optimiser
        if word == "auto":
            word = "sgd" if model.buffers() else "muon"
        rate, decay = OWN[word]
        by = Optimiser(
            word, weight_decay=decay if self.weight_decay < 0 else self.weight_decay,
            momentum=0.9 if word == "sgd" else 0.0, nesterov=word == "sgd", cosine=True,
            warmup=self.warmup,
        )  # fmt: skip

        def varied(x: Tensor, run: Run) -> Tensor:
            return cropped(x, run, shift=self.shift, mirror=self.mirror)

        return Recipe(by, self.learning_rate or rate, self.batch_size, self.label_smoothing, varied)

    def steps(self, part: Labelled) -> int:
        """Optimiser steps over so many images."""
        return self.epochs * ceil(len(part) / self.batch_size)


def learn(
    model: Classifier, part: Labelled, recipe: Recipe, *, steps: int, run: Run, stage: str
) -> None:
    """Train all weights, and BatchNorm's statistics with them, from where they are.

    Where there is an average, it is what is left, of the statistics too.
    """
    weights, statistics = model.weights("all"), model.buffers()
    numbers = {n: tensor for n, tensor in statistics.items() if tensor.is_floating_point()}
    mean = Average({**weights, **numbers}) if recipe.average else None

    def loss(step: int) -> dict[str, Tensor]:
        if mean is not None:
            mean.follow(share_of_step(step, recipe.average))
        x, right = labelled(model, part, recipe.batch_size, step, run, f"{stage} retain")
        with model.learning_statistics():
            logits = model.forward(recipe.varied(x, run))[1]
        average(list(numbers.values()))  # each process saw its own part of the batch
        return {"retain": F.cross_entropy(logits, right, label_smoothing=recipe.smoothing)}

    means = mean.means if mean is not None else dict[str, Tensor]()
    fit(
        Learner(loss, weights, recipe.rate, recipe.by), steps=steps, run=run, stage=stage,
        carried={**statistics, **{f"mean.{name}": value for name, value in means.items()}},
    )  # fmt: skip
    if mean is not None:
        mean.follow(share_of_step(steps, recipe.average))
        mean.put()


def refuse_single_images(owner: str, batch_size: int, model: Classifier, run: Run) -> None:
    """SettingError for batches of one image in each process, beside BatchNorm."""
    if model.buffers() and batch_size < run.whole(2):
        raise SettingError(
            f"{owner}.batch_size must be at least {run.whole(2)}, 2 images for each process: "
            f"{model.name} has BatchNorm, and one image has no spread; got {batch_size}."
        )
