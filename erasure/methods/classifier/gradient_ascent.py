"""Gradient ascent: climb the loss of what is to be forgotten.

Changes: all weights; some with --select.

Thudi, Deza, Chandrasekaran, Papernot, "Unrolling SGD" (EuroS&P 2022),
https://arxiv.org/abs/2109.13398:

    loss    -CE(forget)

Choices
- BatchNorm's running statistics stay unless `statistics` says otherwise: those of all images, which
  a few batches of one kind would replace.
- Nothing holds the rest in place, and nothing bounds the climb: it is the baseline that shows why
  the others do both. Few epochs and a small learning rate are all it has.
"""

from dataclasses import dataclass

from torch import Tensor
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
class GradientAscent:
    """Gradient ascent on the forgotten classes."""

    epochs: int = setting(5, quick=1, help="passes over the images to forget", at_least=1)
    learning_rate: float = setting(1e-4, help="SGD's", above=0)
    batch_size: int = setting(256, help="images to forget per step", at_least=1)
    momentum: float = setting(0.9, help="SGD's", at_least=0, at_most=1)
    weight_decay: float = setting(5e-4, help="SGD's", at_least=0)
    select: str = setting("all", help="which weights: all, mlp, attention, head, or a pattern")
    statistics: bool = setting(
        False, help="let BatchNorm go by each batch, and its statistics follow, as the authors do"
    )

    def __post_init__(self) -> None:
        check(self)

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        weights = model.weights(self.select)
        model.remember(list(weights))
        statistics = Statistics.asked(model, self, learn=self.statistics)
        part = request.forget

        def loss(step: int) -> dict[str, Tensor]:
            x, right = labelled(model, part, self.batch_size, step, run, f"{request.stage} forget")
            with statistics.learning():
                logits = model.forward(x)[1]
            return {"forget": -F.cross_entropy(logits, right)}

        by = Optimiser("sgd", momentum=self.momentum, weight_decay=self.weight_decay)
        fit(
            Learner(loss, weights, self.learning_rate, by), run=run, stage=request.stage,
            steps=request.steps(self.epochs, self.batch_size, part), carried=statistics.carried,
        )  # fmt: skip
