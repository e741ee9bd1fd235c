"""The papers' membership attack against an exact solver, and the signed leak by hand."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from evaluation.metrics.membership import area, privacy_leak, support_vectors


def exact_side(members: torch.Tensor, others: torch.Tensor, asked: torch.Tensor) -> np.ndarray:
    """The decision of the dual's solution, C = 3 and gamma 1, on `asked`."""
    x = torch.cat([members, others]).double().numpy()
    y = np.r_[np.ones(len(members)), -np.ones(len(others))]
    kernel = np.exp(-np.square(x[:, None] - x)) * y[:, None] * y
    found = minimize(
        lambda a: a @ kernel @ a / 2 - a.sum(), np.full(len(x), 0.1), jac=lambda a: kernel @ a - 1,
        bounds=[(0, 3.0)] * len(x), constraints={"type": "eq", "fun": lambda a: a @ y},
        method="SLSQP", options={"maxiter": 1000, "ftol": 1e-14},
    )  # fmt: skip
    a = found.x
    free = (a > 1e-5) & (a < 3 - 1e-5)
    shift = np.mean(y[free] - (a * y) @ np.exp(-np.square(x[:, None] - x[free])))
    return (a * y) @ np.exp(-np.square(x[:, None] - asked.double().numpy())) + shift


def test_the_attack_decides_as_the_exact_classifier() -> None:
    generator = torch.Generator().manual_seed(0)
    members = 1 - torch.rand(25, generator=generator) ** 3 * 0.6
    others = torch.rand(25, generator=generator)
    asked = torch.linspace(0, 1, 201)
    side = exact_side(members, others, asked)
    far = 0.02  # both solvers stop close to the minimum, not at it
    gone, known = asked[side < -far], asked[side > far]
    assert min(len(gone), len(known)) > 20
    assert support_vectors(members, others, gone).value == 1
    assert support_vectors(members, others, known).value == 0


def test_the_attack_takes_as_many_of_each() -> None:
    members, others = torch.full((90,), 0.99), torch.linspace(0.0, 0.6, 30)
    found = support_vectors(members, others, torch.tensor([0.98, 0.97, 0.2, 0.1]))
    assert (found.value, found.n) == (0.5, 4)


def test_area_counts_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = ((torch.rand(n, generator=generator) * 10).round() / 10 for n in (17, 23))
    pairs = (one[:, None] > other).double() + (one[:, None] == other).double() / 2
    assert area(one, other) == pytest.approx(float(pairs.mean()))


def test_the_leak_has_a_sign() -> None:
    test = torch.tensor([0.2, 0.4, 0.6, 0.8])
    gold = torch.tensor([0.3, 0.5])  # AUC (1 + 2) / 8
    known, gone = torch.tensor([0.9, 0.95]), torch.tensor([0.05, 0.1])
    same = privacy_leak(gold, test, gold, test)
    below, above = (privacy_leak(part, test, gold, test) for part in (known, gone))
    assert None not in (same, below, above)
    assert same.value == 0
    assert below.value == pytest.approx((3 / 8 - 1) / (5 / 8))
    assert above.value == pytest.approx((3 / 8) / (5 / 8))
    assert (below.higher_is_better, above.higher_is_better) == (True, False)
    assert privacy_leak(gold, test, known, test) is None
