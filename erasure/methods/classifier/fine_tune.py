"""Fine-tuning on what is kept, with an l1 penalty that fades: l1-sparse unlearning.

Changes: all weights; some with --select.

Jia, Liu, Ram, Yao, Liu, Liu, Sharma, Liu, "Model Sparsity Can Simplify Machine Unlearning" (NeurIPS
2023), https://arxiv.org/abs/2304.04934:

    loss    CE(retain) + gamma_e sum |theta|
            gamma_e = gamma (1 - e / (E - E_0)), 0 for the last E_0 epochs

Choices
- BatchNorm's running statistics stay unless `statistics` says otherwise: those of all images, which
  a few batches of one kind would replace.
- `l1=0` is plain fine-tuning. The penalty covers every selected weight, biases and gains included,
  as the authors' code does. Their default of 0.2 belongs to pruning; 5e-4 here.
- The epoch counts in fractions, so that the penalty falls at every step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.errors import SettingError
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
class FineTune:
    """Fine-tuning with a fading l1 penalty."""

    epochs: int = setting(10, quick=2, help="passes over the images to keep (E)", at_least=1)
    learning_rate: float = setting(0.01, help="SGD's", above=0)
    batch_size: int = setting(256, help="images to keep per step", at_least=1)
    momentum: float = setting(0.9, help="SGD's", at_least=0, at_most=1)
    weight_decay: float = setting(5e-4, help="SGD's", at_least=0)
    l1: float = setting(5e-4, help="weight of the l1 penalty at the start (gamma)", at_least=0)
    epochs_without: int = setting(2, quick=1, help="last epochs without it (E_0)", at_least=0)
    select: str = setting("all", help="which weights: all, mlp, attention, head, or a pattern")
    statistics: bool = setting(
        False, help="let BatchNorm go by each batch, and its statistics follow, as the authors do"
    )

    def __post_init__(self) -> None:
        check(self)
        if self.l1 and self.epochs_without >= self.epochs:
            raise SettingError(
                f"FineTune.epochs_without must be below epochs ({self.epochs}), or the l1 penalty "
                f"never applies; got {self.epochs_without}. For none, set l1 to 0."
            )

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        weights = model.weights(self.select)
        model.remember(list(weights))
        statistics = Statistics.asked(model, self, learn=self.statistics)
        part = request.retain
        steps = request.steps(self.epochs, self.batch_size, part)

        def loss(step: int) -> dict[str, Tensor]:
            x, right = labelled(model, part, self.batch_size, step, run, f"{request.stage} retain")
            with statistics.learning():
                logits = model.forward(x)[1]
            terms = {"retain": F.cross_entropy(logits, right)}
            gamma = penalty(self.l1, step * self.epochs / steps, self.epochs, self.epochs_without)
            if gamma:
                size = torch.stack([weight.abs().sum() for weight in weights.values()]).sum()
                terms["l1"] = gamma * size
            return terms

        by = Optimiser("sgd", momentum=self.momentum, weight_decay=self.weight_decay)
        learner = Learner(loss, weights, self.learning_rate, by)
        fit(learner, steps=steps, run=run, stage=request.stage, carried=statistics.carried)


def penalty(gamma: float, epoch: float, epochs: int, without: int) -> float:
    """gamma_e at an epoch counted in fractions."""
    last = epochs - without
    return gamma * (1 - epoch / last) if epoch < last else 0.0
