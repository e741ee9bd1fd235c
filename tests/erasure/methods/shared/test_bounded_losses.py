"""The losses against their definitions in float64, and where they end."""

import math
from collections.abc import Callable

import pytest
import torch

from erasure.methods.shared.bounded_losses import (
    Divergence,
    divergence_loss,
    hinge_loss,
    preference_loss,
)


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
def test_preference_is_its_formula_and_its_weight_goes_to_nothing(beta: float) -> None:
    log_ratio = numbers(-40.0, -1.0, 0.0, 1.0, 700.0).requires_grad_()
    found = preference_loss(log_ratio, beta)
    # of the last the ratio itself would overflow
    for x, got in zip(log_ratio.tolist()[:4], found.tolist(), strict=False):
        assert got == pytest.approx(2 / beta * math.log(1 + math.exp(x) ** beta), rel=1e-12)
    assert found[4].item() == pytest.approx(1400, rel=1e-12)
    (slope,) = torch.autograd.grad(found.sum(), log_ratio)
    for x, got in zip(log_ratio.tolist()[:4], slope.tolist(), strict=False):
        share = math.exp(x) ** beta
        assert got == pytest.approx(2 * share / (1 + share), rel=1e-12)


def test_preference_without_beta_is_ascent() -> None:
    log_ratio = numbers(-3.0, 0.0, 2.0).requires_grad_()
    (slope,) = torch.autograd.grad(preference_loss(log_ratio, 1e-9).sum(), log_ratio)
    assert torch.allclose(slope, torch.ones_like(slope))


def test_hinge_is_one_plus_the_lead_and_ends_at_a_lead_of_one() -> None:
    found = hinge_loss(numbers(1.0, 0.25, 0.0, -2.0), numbers(0.0, 0.5, 1.0, 0.0))
    assert found.tolist() == [2.0, 0.75, 0.0, 0.0]


@pytest.mark.parametrize(
    ("divergence", "g", "conjugate"),
    [
        ("tv", lambda v: math.tanh(v) / 2, lambda u: u),
        ("kl", lambda v: v, lambda u: math.exp(u - 1)),
        ("pearson", lambda v: v, lambda u: u + u * u / 4),
    ],
)
def test_divergence_is_its_variational_form(
    divergence: Divergence, g: Callable[[float], float], conjugate: Callable[[float], float]
) -> None:
    unwanted, wanted = numbers(1.0, 0.3, 0.0), numbers(0.0, 0.6, 1.0)
    found = divergence_loss(unwanted, wanted, divergence).tolist()
    for x, y, got in zip(unwanted.tolist(), wanted.tolist(), found, strict=True):
        assert got == pytest.approx(conjugate(g(x)) - g(y), rel=1e-12)
    assert found[0] > found[1] > found[2]  # the less of the one and the more of the other
