"""Which things are the hardest to take out of a model: a search for the worst case.

Fan, Liu, Hero, Liu, "Challenging Forgets: Unveiling the Worst-Case Forget Sets in Machine
Unlearning" (ECCV 2024), https://arxiv.org/abs/2403.07362. Of n things, be they concepts, classes
or single images, each with a weight w_i and a loss l_i that is low while the model still knows it:

    w*          argmin of  sum_i w_i l_i(theta_u(w)) + gamma |w|^2  over w in [0, 1]^n, sum w = k
    theta_u(w)  theta_0 after a few steps theta <- theta - s sign(grad of what w asks to forget)
    round       w <- P(w - r (l(theta_u(w)) + 2 gamma w)), P the nearest point of that set

Choices
- sign() has no slope, so theta_u does not move with w, and the losses themselves are the gradient.
- What w asks to forget is the caller's: `losses` is told w and answers with every l_i afterwards.
- The losses are centred and divided by their spread, so that r means the same for any of them; P
  takes a shift away as it is. The authors' rate is in the losses' unit: 0.01 for the images' of a
  classifier, 100 for prompts.
- The weights are not set to the k largest now and then, as the authors' every 20 epochs; at the end
  the k largest are chosen, whether or not they have come to 1.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from erasure.config import check, setting
from erasure.errors import DivergedError, SettingError
from erasure.training.learner import trainable
from erasure.training.progress import shown

HALVINGS = 100


@dataclass(frozen=True)
class Selection:
    """What a search chose of n things: their indices, the surest first.

    And of every round the losses, as the caller gave them, and the weights that it ended with.
    """

    chosen: list[int]
    weights: Float[Tensor, "rounds n"]
    losses: Float[Tensor, "rounds n"]


@dataclass(frozen=True)
class Selector:
    """The search's settings."""

    rounds: int = setting(10, help="how often the model is unlearned anew", at_least=1)
    rate: float = setting(0.2, help="of the weights, in the losses' standard deviations", above=0)
    ridge: float = setting(1e-4, help="pull towards equal weights (gamma)", at_least=0)
    easiest: bool = setting(False, help="seek what is forgotten best instead")

    def __post_init__(self) -> None:
        check(self)

    def select(
        self, losses: Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]], total: int, count: int
    ) -> Selection:
        """The `count` of `total` things that stay known best when they are what is forgotten.

        `losses(w)` unlearns the original model by the weights w in [0, 1], whose sum is `count`,
        and returns the loss of each thing then. SettingError for a count that leaves no choice,
        DivergedError for losses that are not finite.
        """
        check_count(count, total)
        weights = torch.full((total,), count / total, dtype=torch.float64)
        seen, left = list[Tensor](), list[Tensor]()
        for _ in shown(range(self.rounds), "searching the worst case"):
            seen.append(_checked(losses(weights.float()), total))
            slope = (seen[-1] - seen[-1].mean()) / seen[-1].std()
            slope = -slope if self.easiest else slope
            weights = onto_share(weights - self.rate * (slope + 2 * self.ridge * weights), count)
            left.append(weights)
        last = -seen[-1] if self.easiest else seen[-1]
        order = sorted(range(total), key=lambda i: (-float(weights[i]), float(last[i]), i))
        return Selection(order[:count], torch.stack(left).float(), torch.stack(seen).float())


def check_count(count: int, total: int) -> None:
    """SettingError for a number of things to choose that is no choice among the total."""
    if not 0 < count < total:
        raise SettingError(
            f"the number of things to choose must be from 1 to {total - 1}, fewer than the {total} "
            f"there are; got {count}."
        )


def onto_share(values: Float[Tensor, " n"], total: float) -> Float[Tensor, " n"]:
    """The nearest point in [0, 1]^n with this sum: clip(values - mu, 0, 1), mu by bisection."""
    low, high = values.min() - 1, values.max()  # all are 1 there, and all are 0 here
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        is_above = (values - middle).clamp(0, 1).sum() > total
        low, high = (middle, high) if is_above else (low, middle)
    return (values - (low + high) / 2).clamp(0, 1)


@contextmanager
def sign_steps(
    weights: Mapping[str, nn.Parameter], loss: Callable[[], Tensor], *, steps: int, size: float
) -> Iterator[None]:
    """Within it, the weights are so many sign steps of one size down a loss; then as they were."""
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        with trainable(weights):
            for _ in range(steps):
                gradients = torch.autograd.grad(loss(), list(weights.values()))
                with torch.no_grad():
                    for weight, gradient in zip(weights.values(), gradients, strict=True):
                        weight -= size * gradient.sign()
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])


def _checked(losses: Float[Tensor, " n"], total: int) -> Float[Tensor, " n"]:
    found = losses.detach().cpu().double()
    if found.shape != (total,):
        raise SettingError(
            f"losses must give one number for each of the {total} things; "
            f"got the shape {tuple(losses.shape)}."
        )
    if not bool(found.isfinite().all()):
        raise DivergedError("the search met a loss that is not finite; take smaller steps.")
    if float(found.std()) == 0:
        raise SettingError("losses must differ; all things have the same, so none is the worst.")
    return found
