"""Repair: another method, and after each of its requests the weights that it moved most are mended.

Changes: what the other method changes; a small share of it once more.

Zhao, Zhou, Long, Jiang, Zhang, "Does Continual Learning Equally Forget All Parameters?" (ICML
2023), https://arxiv.org/abs/2304.04158, whose forgetting-prioritised fine-tuning (FPF) trains the
few parts that moved most on what shall be remembered:

    rank    mean |theta - theta_before| of each tensor; the first ones, up to `share` of all weights
    loss    CE(retain) + w hinge(forget) on these alone, hinge = 1 + p_y - max over the kept p_v

Choices
- One command does both: `after` names the method, with its presets and `after_settings` over them.
  To mend after every request, and not once at the end, is the paper's k-FPF.
- The paper ranks by changes from task to task; here it is by that of the request just served.
- What was forgotten is held by IHL's loss, which is bounded; the paper forgets nothing on purpose.
  Of earlier requests there are no images: nothing holds them, and no image brings them back.
- Adapters (gs-lora) become part of the weights, and no request can be taken back.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.errors import SettingError
from erasure.forgetting import Request, refuse_unsuited
from erasure.methods.shared.following import QUICK, check_following, following
from erasure.methods.shared.other_classes import hinge
from erasure.models.classifier.classifier import Classifier
from erasure.registry import METHODS
from erasure.training.batches import labelled
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.optimisers import Optimiser
from erasure.training.run import Run

REFUSED = {
    "repair": "it is repair itself",
    "prune": "its zeros would be filled; let repair follow it, by prune --then repair",
}


@METHODS.register
@dataclass(frozen=True)
class Repair:
    """Another method, then a repair."""

    after: str = setting("ssd", help="the method that forgets, whose damage is mended")
    after_settings: str = setting(
        "", quick=QUICK, help='its settings, as in "selection=10,select=mlp"; quick for its --quick'
    )
    share: float = setting(0.1, help="of all weights, at most, that are mended", above=0, at_most=1)
    epochs: int = setting(2, quick=1, help="passes over the images to keep", at_least=1)
    learning_rate: float = setting(1e-3, help="Adam's, falling to 0 by a cosine", above=0)
    batch_size: int = setting(
        256, help="images to keep per step, and as many to forget", at_least=1
    )
    hold_weight: float = setting(1.0, help="of the term that holds the forgotten", at_least=0)

    def __post_init__(self) -> None:
        check(self)
        why = REFUSED.get(self.after.replace("_", "-"))
        if why is not None:
            raise SettingError(f"Repair.after must be another method; of {self.after}, {why}.")
        check_following(self.after, self.after_settings, "Repair.after_settings")

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        method = following(self.after, self.after_settings, model.folder, "Repair.after_settings")
        refuse_unsuited(type(method), self.after, not request.classes)
        every = model.parameters()
        before = {name: weight.detach().clone() for name, weight in every.items()}
        method.forget(model, request, run)
        names = most_moved(before, every, self.share)
        if names:  # else there is nothing to mend
            self._mend(model, request, {name: every[name] for name in names}, run)

    def _mend(
        self, model: Classifier, request: Request, weights: dict[str, nn.Parameter], run: Run
    ) -> None:
        stage = f"{request.stage} repair"

        def loss(step: int) -> dict[str, Tensor]:
            (x_f, y_f), (x_r, y_r) = (
                labelled(model, part, self.batch_size, step, run, f"{stage} {name}")
                for part, name in ((request.forget, "forget"), (request.retain, "retain"))
            )
            logits = model.forward(torch.cat([x_f, x_r]))[1]
            return {
                "retain": F.cross_entropy(logits[len(y_f) :], y_r),
                "hold": self.hold_weight * hinge(logits[: len(y_f)], y_f, request),
            }

        fit(
            Learner(loss, weights, self.learning_rate, Optimiser("adam", cosine=True)), run=run,
            steps=request.steps(self.epochs, self.batch_size, request.retain), stage=stage,
        )  # fmt: skip


@torch.no_grad()
def most_moved(before: dict[str, Tensor], now: dict[str, nn.Parameter], share: float) -> list[str]:
    """The tensors with the largest mean change, which are together at most a share of all weights.

    The first is among them however large it is; one that did not move never is.
    """
    moved = {name: float((now[name] - old).abs().mean()) for name, old in before.items()}
    left = share * sum(tensor.numel() for tensor in before.values())
    found = list[str]()
    for name in sorted((n for n in moved if moved[n] > 0), key=lambda n: -moved[n]):
        size = before[name].numel()
        if size > left and found:
            break
        found.append(name)
        left -= size
    return found
