"""How a classifier learns from random weights: what `train` and `retrain` share."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from erasure.errors import SettingError
from erasure.models.classifier.classifier import Classifier
from erasure.training.averages import Average, share_of_step
from erasure.training.batches import cropped, labelled
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.one_cycle import OneCycle
from erasure.training.optimisers import Optimiser
from erasure.training.run import Run
from erasure.training.statistics import Statistics
from erasure_datasets.labelled import Labelled

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


def one_cycle(settings: OneCycle, model: Classifier) -> Recipe:
    """The recipe for a network, with what is its own choice made."""
    word = settings.optimiser
    if word == "auto":
        word = "sgd" if model.buffers() else "muon"
    rate, decay = OWN[word]
    by = Optimiser(
        word, weight_decay=decay if settings.weight_decay < 0 else settings.weight_decay,
        momentum=0.9 if word == "sgd" else 0.0, nesterov=word == "sgd", cosine=True,
        warmup=settings.warmup,
    )  # fmt: skip

    def varied(x: Tensor, run: Run) -> Tensor:
        return cropped(x, run, shift=settings.shift, mirror=settings.mirror)

    rate = settings.learning_rate or rate
    return Recipe(by, rate, settings.batch_size, settings.label_smoothing, varied)


def learn(
    model: Classifier, part: Labelled, recipe: Recipe, *, steps: int, run: Run, stage: str
) -> None:
    """Train all weights, and BatchNorm's statistics with them, from where they are.

    Where there is an average, it is what is left, of the statistics too.
    """
    weights, statistics = model.weights("all"), Statistics(model, learn=True)
    mean = Average({**weights, **statistics.numbers}) if recipe.average else None

    def loss(step: int) -> dict[str, Tensor]:
        if mean is not None:
            mean.follow(share_of_step(step, recipe.average))
        x, right = labelled(model, part, recipe.batch_size, step, run, f"{stage} retain")
        with statistics.learning():
            logits = model.forward(recipe.varied(x, run))[1]
        return {"retain": F.cross_entropy(logits, right, label_smoothing=recipe.smoothing)}

    means = mean.means if mean is not None else dict[str, Tensor]()
    fit(
        Learner(loss, weights, recipe.rate, recipe.by), steps=steps, run=run, stage=stage,
        carried={**statistics.carried, **{f"mean.{name}": value for name, value in means.items()}},
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
