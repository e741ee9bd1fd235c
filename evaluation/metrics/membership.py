"""Membership inference as the unlearning papers report it, and how private forgetting left it.

All go by the probability that a classifier gives to each image's true class.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.score import Score, Z, rate

COST = 3.0  # the support vector classifier's C
TERMS = 20  # of the kernel's series, whose next is below 1e-13 on [0, 1]
WIDTHS = (1.0, 0.1, 0.01, 1e-3)  # over which the hinge is rounded, ever less
NEWTON_STEPS = 100
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
        drawn.append((again - area(forgotten[f], test[t])) / max(1 - again, 1e-12))
    error = float(torch.tensor(drawn).std())
    found = Score(value, error, len(forgotten), low=value - Z * error, high=value + Z * error)
    return replace(found, higher_is_better=value < 0)


def _spread(values: Tensor, count: int) -> Tensor:
    return values[torch.linspace(0, len(values) - 1, count).round().long()]


def _features(x: Float[Tensor, " n"]) -> Float[Tensor, "n k"]:
    """exp(-(x - z)^2) as a product of features: exp(-x^2) sqrt(2^k / k!) x^k."""
    x = x.double()
    powers = torch.arange(TERMS)
    scale = torch.tensor([math.sqrt(2.0**k / math.factorial(k)) for k in range(TERMS)]).double()
    return torch.exp(-x.square())[:, None] * scale * x[:, None] ** powers


def _fitted(features: Float[Tensor, "n k"], sides: Float[Tensor, " n"]) -> Float[Tensor, " k1"]:
    """Weights and offset of least |w|^2 / 2 + C sum hinge, by Newton's method on a rounded hinge.

    The hinge is a parabola over a width that shrinks, so that each minimum begins the next search.
    """
    rows = torch.cat([features, torch.ones(len(features), 1).double()], 1) * sides[:, None]
    ridge = torch.eye(rows.shape[1]).double()
    ridge[-1, -1] = 1e-10  # the offset is free
    weight = torch.zeros(rows.shape[1]).double()
    for width in WIDTHS:
        for _ in range(NEWTON_STEPS):
            lack = 1 - rows @ weight
            slope = (lack / width).clamp(0, 1)
            gradient = ridge @ weight - COST * (slope @ rows)
            bent = rows[(lack > 0) & (lack < width)]
            step = torch.linalg.solve(ridge + COST / width * bent.T @ bent, gradient)
            if float(gradient @ step) < 1e-12:
                break
            weight = _down(weight, step, gradient, rows, ridge, width)
    return weight


def _down(
    weight: Tensor, step: Tensor, gradient: Tensor, rows: Tensor, ridge: Tensor, width: float
) -> Tensor:
    """As far along a step as the loss falls by a fair part of what its slope promises."""

    def loss(at: Tensor) -> float:
        lack = 1 - rows @ at
        bend = lack.clamp(0, width)
        hinge = bend.square() / (2 * width) + (lack - width).clamp(min=0)
        return float(at @ ridge @ at / 2 + COST * hinge.sum())

    before, promised, share = loss(weight), float(gradient @ step), 1.0
    while share > 1e-6 and loss(weight - share * step) > before - 1e-4 * share * promised:
        share /= 2
    return weight - share * step
