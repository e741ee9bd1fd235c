"""Surgery in float64: what goes against the kept is gone, and nothing else is touched."""

import pytest
import torch
from torch import nn

from erasure.methods.shared.gradient_surgery import along, operated


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_pcgrad_leaves_what_agrees_and_makes_the_rest_orthogonal() -> None:
    push, keep = [vector(1, 2), vector(1, 2)], [vector(3, 1), vector(-3, 1)]
    left, share = operated(push, keep, "pcgrad", 1.0)
    assert torch.equal(left[0], push[0])
    # g - <g, r> / |r|^2 r = (1, 2) + (-3, 1) / 10
    assert torch.allclose(left[1], vector(0.7, 2.1), rtol=1e-12)
    assert float((left[1] * keep[1]).sum()) == pytest.approx(0, abs=1e-12)
    assert float(share) == 0.5
    half, _ = operated(push, keep, "pcgrad", 0.5)
    assert torch.allclose(half[1], (push[1] + left[1]) / 2, rtol=1e-12)


def test_the_published_form_subtracts_as_much_whatever_the_gradients_size() -> None:
    push, keep = vector(0.1, 0.2), vector(-3, 1)
    (left,), _ = operated([push], [keep], "published", 1.0)
    cosine = float((push * keep).sum() / push.norm() / keep.norm())
    assert torch.allclose(left, push - cosine * keep / keep.norm(), rtol=1e-12)
    (same,), share = operated([push], [keep], "none", 1.0)
    assert torch.equal(same, push)
    assert float(share) == 1


def test_nothing_kept_is_nothing_to_go_against() -> None:
    (left,), share = operated([vector(1, 2)], [vector(0, 0)], "published", 1.0)
    assert torch.equal(left, vector(1, 2))
    assert float(share) == 0


def test_a_term_along_gradients_has_these_and_reads_as_told() -> None:
    weights = {name: nn.Parameter(torch.ones(3)) for name in ("a", "b")}
    wanted = [torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.5, 0.0, -1.0])]
    term = along(weights, wanted, torch.tensor(0.25))
    assert float(term) == 0.25
    (3 * term).backward()
    for weight, gradient in zip(weights.values(), wanted, strict=True):
        assert torch.equal(weight.grad, 3 * gradient)
