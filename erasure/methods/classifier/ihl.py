"""IHL: give the forgotten classes' probability to the likeliest other class.

Changes: all weights; some with --select.

Cha, Cho, Hwang, Lee, "Towards Robust and Parameter-Efficient Knowledge Unlearning for LLMs" (LoKU,
ICLR 2025), https://arxiv.org/abs/2408.06621, whose inverted hinge loss, for language models, is

    loss    1 + p_y - max_{v != y} p_v on forget + CE(retain)

It lies in [0, 2], and only the two classes in question feel it much: answers stay natural, where
gradient ascent raises all others alike.

Choices
- v runs over the kept classes: what is forgotten now or was earlier is no answer.
- FILA, the paper's start for its adapters, is left out: the weights themselves learn.
"""

from dataclasses import dataclass

from torch import Tensor

from erasure.config import check
from erasure.forgetting import Request
from erasure.methods.shared.forget_and_keep import ForgetAndKeep, forget_and_keep
from erasure.methods.shared.other_classes import hinge
from erasure.methods.shared.retain_terms import Answers
from erasure.models.classifier.classifier import Classifier
from erasure.registry import METHODS
from erasure.training.run import Run


@METHODS.register
@dataclass(frozen=True)
class IHL(ForgetAndKeep):
    """The inverted hinge loss."""

    def __post_init__(self) -> None:
        check(self)

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        def forgetting(said: Answers) -> Tensor:
            return hinge(said.to_forget, said.forgotten, request)

        forget_and_keep(self, model, request, forgetting, run)
