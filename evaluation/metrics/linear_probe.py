"""Whether features tell a concept from the rest: logistic regression on what a model computes.

A model that never knew the concept has features that tell it, too, from what it learned for the
rest: its figure is the floor, not chance.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from evaluation.score import Score, estimate, mean_of_rates, rate

PENALTY = 1e-3  # of the squared weights
FOLDS = 4


def probe(features: Float[Tensor, "n d"], is_concept: Int[Tensor, " n"], *, seed: int = 0) -> Score:
    """Balanced accuracy on the half that a logistic regression on the other did not see."""
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    learn, test = order[: len(order) // 2], order[len(order) // 2 :]
    y = is_concept.double()
    right = _told(features.double(), y, learn, test) == (y[test] > 0)
    sides = [right[y[test] == side].double() for side in (0, 1)]
    value = float(sum(side.mean() for side in sides) / 2)
    error = float(sum(side.var(unbiased=False) / len(side) for side in sides)) ** 0.5 / 2
    return estimate(value, error, len(test), least=0.0, most=1.0, higher_is_better=False)


def crossed_probe(
    features: Float[Tensor, "n d"], is_concept: Int[Tensor, " n"], *, folds: int = FOLDS,
    seed: int = 0,
) -> Score:  # fmt: skip
    """Balanced accuracy over all images, each judged by a regression that did not see it.

    `folds` regressions, with as equal a share of either side in each as can be; fewer where a side
    has fewer images, of which it needs two.
    """
    generator = torch.Generator().manual_seed(seed)
    y = is_concept.double()
    sides = [torch.nonzero(y == side).flatten() for side in (0, 1)]
    folds = min(folds, *(len(side) for side in sides))
    fold = torch.empty(len(y), dtype=torch.long)
    for side in sides:
        fold[side] = (torch.randperm(len(side), generator=generator) % folds).long()
    right = torch.zeros(len(y), dtype=torch.bool)
    for number in range(folds):
        learn, test = (torch.nonzero(own).flatten() for own in (fold != number, fold == number))
        right[test] = _told(features.double(), y, learn, test) == (y[test] > 0)
    found = mean_of_rates([rate(right[side]) for side in sides])
    return Score(found.value, found.stderr, found.n, False, found.low, found.high)


def _told(
    x: Float[Tensor, "n d"], y: Float[Tensor, " n"], learn: Int[Tensor, " l"],
    test: Int[Tensor, " t"],
) -> Bool[Tensor, " t"]:  # fmt: skip
    """Whether each image of `test` is taken for one of the concept; both sides count the same."""
    middle, spread = x[learn].mean(0), x[learn].std(0).clamp(min=1e-6)
    x = (x - middle) / spread
    weight = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")
    share = y[learn].mean()
    balance = torch.where(y[learn] > 0, 0.5 / share, 0.5 / (1 - share))

    def closure() -> Tensor:
        optimiser.zero_grad()
        said = x[learn] @ weight[:-1] + weight[-1]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(said, y[learn], balance)
        loss = loss + PENALTY * weight[:-1].square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        return x[test] @ weight[:-1] + weight[-1] > 0
