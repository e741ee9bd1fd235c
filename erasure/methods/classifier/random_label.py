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
- What may hold the rest without images of it: shared/forget_and_keep.py.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from erasure.config import check
from erasure.forgetting import Request
from erasure.methods.shared.forget_and_keep import ForgetAndKeep, forget_and_keep
from erasure.methods.shared.other_classes import other_labels
from erasure.methods.shared.retain_terms import Answers
from erasure.models.classifier.classifier import Classifier
from erasure.registry import METHODS
from erasure.training.run import Run


@METHODS.register
@dataclass(frozen=True)
class RandomLabel(ForgetAndKeep):
    """Random labels for the forgotten classes."""

    def __post_init__(self) -> None:
        check(self)

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        relabel(self, model, request, None, run)


def relabel(
    settings: ForgetAndKeep, model: Classifier, request: Request,
    masks: dict[str, Tensor] | None, run: Run,
) -> None:  # fmt: skip
    """Train the weights, or what the masks leave of them, on random labels."""

    def forgetting(said: Answers) -> Tensor:
        wrong = other_labels(said.forgotten, len(model.labels), run)
        return F.cross_entropy(said.to_forget, wrong)

    forget_and_keep(settings, model, request, forgetting, run, masks=masks)
