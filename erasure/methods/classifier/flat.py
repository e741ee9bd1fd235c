"""FLAT: set another answer against the forgotten one by an f-divergence, from forget images alone.

Changes: all weights; some with --select.

Wang, Wei, Liu, Pang, Liu, Shah, Bao, Liu, Wei, "LLM Unlearning via Loss Adjustment with Only Forget
Data" (ICLR 2025), https://arxiv.org/abs/2410.11143, for language models:

    loss    -g(p_t) + f*(g(p_y)) on forget

p_y is the probability of the true class, p_t that of the template answer; g and f* belong to the
divergence: KL, total variation or Pearson.

Choices
- The template of an image is the kept class that the original model finds likeliest: what is left
  of its answer without the forgotten classes. The paper's is a refusal, which no classifier has.
- Nothing holds the rest, as published; `--keep-by images` does.
"""

from dataclasses import dataclass

from torch import Tensor

from erasure.config import check, setting
from erasure.forgetting import Request
from erasure.methods.shared.bounded_losses import Divergence, divergence_loss
from erasure.methods.shared.forget_and_keep import ForgetAndKeep, Keeping, forget_and_keep
from erasure.methods.shared.other_classes import alternatives
from erasure.methods.shared.retain_terms import Answers
from erasure.models.classifier.classifier import Classifier
from erasure.registry import METHODS
from erasure.training.run import Run


@METHODS.register
@dataclass(frozen=True)
class FLAT(ForgetAndKeep):
    """Forget-data-only loss adjustment."""

    keep_by: Keeping = setting(
        "nothing", help="what holds the rest: its images, or without any of them, or nothing"
    )
    divergence: Divergence = setting("kl", help="of the two answers")

    def __post_init__(self) -> None:
        check(self)

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        def forgetting(said: Answers) -> Tensor:
            labels = said.forgotten
            before = said.original(len(labels))[1]
            allowed = alternatives(labels, request, len(model.labels))
            template = before.masked_fill(~allowed, float("-inf")).argmax(1)
            probabilities = said.to_forget.float().softmax(1)
            template, forgotten = (
                probabilities.gather(1, chosen[:, None])[:, 0] for chosen in (template, labels)
            )
            return divergence_loss(forgotten, template, self.divergence).mean()

        forget_and_keep(self, model, request, forgetting, run)
