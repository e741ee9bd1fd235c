"""NPO: lower the forgotten classes' probabilities, ever more gently the lower they are.

Changes: all weights; some with --select.

Zhang, Lin, Bai, Mei, "Negative Preference Optimization: From Catastrophic Collapse to Effective
Unlearning" (COLM 2024), https://arxiv.org/abs/2404.05868, for language models:

    loss    (2 / beta) log(1 + (p_y / p0_y)^beta) on forget + CE(retain)

p_y is the probability of the true class, p0_y the original model's. As beta goes to 0 this is
gradient ascent.

Choices
- A class's probability stands where the paper has that of a whole answer.
- The paper's best rows add a loss on what is kept; so do we. `--keep-by nothing` is the bare loss.
- The original is the model from before all requests of the run.
"""

from dataclasses import dataclass

from torch import Tensor

from erasure.config import check, setting
from erasure.forgetting import Request
from erasure.methods.shared.bounded_losses import preference_loss
from erasure.methods.shared.forget_and_keep import ForgetAndKeep, forget_and_keep
from erasure.methods.shared.retain_terms import Answers
from erasure.models.classifier.classifier import Classifier
from erasure.registry import METHODS
from erasure.training.run import Run


@METHODS.register
@dataclass(frozen=True)
class NPO(ForgetAndKeep):
    """Negative preference optimisation."""

    beta: float = setting(0.1, help="how fast the descent slows down", above=0)

    def __post_init__(self) -> None:
        check(self)

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        def forgetting(said: Answers) -> Tensor:
            labels = said.forgotten[:, None]
            now, before = (
                logits.float().log_softmax(1).gather(1, labels)[:, 0]
                for logits in (said.to_forget, said.original(len(labels))[1])
            )
            return preference_loss(now - before, self.beta).mean()

        forget_and_keep(self, model, request, forgetting, run)
