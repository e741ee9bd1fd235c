"""The worst moments of kept classes, against plain loops in Python's own floats."""

import random

import pytest
import torch

from evaluation.metrics.stability import least_accuracy, windowed_forgetting, worst_case


def hand_made(looks: int, kept: int, seed: int) -> list[list[float]]:
    dice = random.Random(seed)
    return [[dice.randrange(9) / 8 for _ in range(kept)] for _ in range(looks)]


@pytest.mark.parametrize(("looks", "kept"), [(1, 3), (2, 1), (9, 4), (27, 5)])
@pytest.mark.parametrize("window", [2, 5, 10])
def test_as_plain_loops_say(looks: int, kept: int, window: int) -> None:
    rows = hand_made(looks, kept, seed=looks + kept)
    seen = torch.tensor(rows, dtype=torch.float64)
    least = [min(row[label] for row in rows) for label in range(kept)]
    falls = []
    for label in range(kept):
        pairs = [
            rows[first][label] - rows[later][label]
            for first in range(looks)
            for later in range(first + 1, looks)
            if later - first < window
        ]
        falls.append(max([0.0, *pairs]))
    assert least_accuracy(seen).value == pytest.approx(sum(least) / kept, rel=1e-12)
    assert worst_case(seen, 0.75).value == pytest.approx((0.75 + sum(least)) / (1 + kept), rel=1e-6)
    assert windowed_forgetting(seen, window).value == pytest.approx(sum(falls) / kept, rel=1e-12)


def test_each_class_has_a_worst_moment_of_its_own() -> None:
    """The mean never dips below a half, and each class is lost once."""
    seen = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert seen.mean(1).min() == 0.5
    assert least_accuracy(seen).value == 0
    assert windowed_forgetting(seen).value == 1
    assert windowed_forgetting(seen).higher_is_better is False


def test_a_slow_fall_is_none_in_a_short_window() -> None:
    slow = torch.linspace(1, 0, 21, dtype=torch.float64)[:, None]
    assert windowed_forgetting(slow, 11).value == pytest.approx(0.5)
    assert windowed_forgetting(slow.flip(0), 11).value == 0  # what only rises never fell
