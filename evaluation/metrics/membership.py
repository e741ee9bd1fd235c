"""Membership inference as the unlearning papers report it, and how private forgetting left it.

All go by the probability that a classifier gives to each image's true class.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.score import Score, estimate, rate

COST = 3.0  # the support vector classifier's C
TERMS = 20  # of the kernel's series, whose next is below 1e-12 on [0, 1]
STEPS, CLOSE = 60, 1e-9  # of the search, at most, and where it ends
RESAMPLES = 200


def support_vectors(
    members: Float[Tensor, " m"], others: Float[Tensor, " o"], asked: Float[Tensor, " f"]
) -> Score:
    """Share of `asked` that a support vector classifier takes for never trained on.

    It learns to tell `members` from `others`, as many of each, by an RBF kernel of gamma 1 with C =
    3: the attack of Jia et al. (NeurIPS 2023) and Fan et al. (ICLR 2024), whose tables call it MIA.
    Of the longer side every so many-th is taken.
    """
    count = min(len(members), len(others))
    x = torch.cat([_spread(members, count), _spread(others, count)])
    sides = torch.cat([torch.ones(count), -torch.ones(count)]).double()
    weight = _fitted(_features(x), sides)
    return rate(_features(asked) @ weight[:-1] + weight[-1] <= 0)


def area(known: Float[Tensor, " n"], others: Float[Tensor, " m"]) -> float:
    """The share of pairs in which the first is surer than the second; ties count half."""
    order = others.sort().values
    below = torch.searchsorted(order, known).double()
    not_above = torch.searchsorted(order, known, right=True).double()
    return float((below + not_above).mean() / 2 / len(others))


def privacy_leak(
    forgotten: Float[Tensor, " n"], test: Float[Tensor, " m"],
    gold_forgotten: Float[Tensor, " n"], gold_test: Float[Tensor, " m"],
) -> Score | None:  # fmt: skip
    """(AUC_retrained - AUC) / (1 - AUC_retrained): 0 as retrained, signed; a bootstrapped error.

    AUC is `area` of the forgotten images against test images. Below 0 the forgotten are still
    known, above 0 they stand out as unknown. Shi et al., "MUSE" (2024),
    https://arxiv.org/abs/2407.06460, as open-unlearning computes it. None where the retrained
    model is surer of every forgotten image than of any test image.
    """
    gold = area(gold_forgotten, gold_test)
    if gold == 1:
        return None
    value = (gold - area(forgotten, test)) / (1 - gold)
    generator, drawn = torch.Generator().manual_seed(0), []
    for _ in range(RESAMPLES):
        f, t = (
            torch.randint(len(part), (len(part),), generator=generator)
            for part in (forgotten, test)
        )
        again = area(gold_forgotten[f], gold_test[t])
        if again < 1:
            drawn.append((again - area(forgotten[f], test[t])) / (1 - again))
    error = float(torch.tensor(drawn).std()) if len(drawn) > 1 else 0.0
    return estimate(value, error, len(forgotten), higher_is_better=value < 0)


def _spread(values: Tensor, count: int) -> Tensor:
    return values[torch.linspace(0, len(values) - 1, count).round().long()]


def _features(x: Float[Tensor, " n"]) -> Float[Tensor, "n k"]:
    """exp(-(x - z)^2) as a product of features: exp(-x^2) sqrt(2^k / k!) x^k."""
    x = x.double()
    powers = torch.arange(TERMS)
    roots = [math.sqrt(2.0**k / math.factorial(k)) for k in range(TERMS)]
    scale = torch.tensor(roots, dtype=torch.float64)
    return torch.exp(-x.square())[:, None] * scale * x[:, None] ** powers


def _fitted(features: Float[Tensor, "n k"], sides: Float[Tensor, " n"]) -> Float[Tensor, " k1"]:
    """The classifier's weights and, last, its offset; as many sides are 1 as are -1.

    A primal-dual interior-point search in the multipliers a of the images, 0 < a < C, which needs
    their kernel as a product alone. Ferris and Munson, "Interior-Point Methods for Massive Support
    Vector Machines" (2002).
    """
    rows = features * sides[:, None]
    a, low, high = torch.full_like(sides, COST / 2), torch.ones_like(sides), torch.ones_like(sides)
    offset = torch.zeros(()).double()
    for _ in range(STEPS):
        room = COST - a
        loose = float((a * low + room * high).mean() / 2)
        slope = rows @ (rows.T @ a) - 1 + offset * sides
        # the slope is a sum over all images, and rounds as one
        if loose < CLOSE and float((slope - low + high).abs().max()) < CLOSE * COST * len(a):
            break
        aim = loose / 10
        curve = low / a + high / room
        wanted = _solved(rows, curve, aim / a - aim / room - slope)
        along = _solved(rows, curve, sides)
        more = (sides @ wanted + sides @ a) / (sides @ along)
        step = wanted - more * along
        step_low = aim / a - low - low / a * step
        step_high = aim / room - high + high / room * step
        pairs = ((a, step), (room, -step), (low, step_low), (high, step_high))
        share = min(1.0, *(_reach(value, change) for value, change in pairs))
        a, offset = a + share * step, offset + share * more
        low, high = low + share * step_low, high + share * step_high
    return torch.cat([rows.T @ a, offset[None]])


def _solved(rows: Tensor, curve: Tensor, right: Tensor) -> Tensor:
    """x of (rows rows^T + diag(curve)) x = right, by Woodbury's identity."""
    small = torch.eye(rows.shape[1]).double() + rows.T @ (rows / curve[:, None])
    inner = torch.linalg.solve(small, rows.T @ (right / curve))
    return (right - rows @ inner) / curve


def _reach(value: Tensor, change: Tensor) -> float:
    """The share of a change after which all values are above 0 still."""
    falling = change < 0
    return float((-0.99 * value[falling] / change[falling]).min()) if falling.any() else 1.0
