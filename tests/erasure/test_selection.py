"""The search for the worst case, where it is known which things are the hardest."""

from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from erasure.errors import DivergedError, SettingError
from erasure.selection import Selector, onto_share, sign_steps

HARD = [0.2, 3.0, 0.9, 0.1, 2.0, 1.5]  # how fast each thing's loss rises when it is forgotten


def forgetting(weights: Tensor) -> Tensor:
    """Six things, known by one number of a model, of which forgetting takes what it can."""
    theta = nn.Parameter(torch.zeros(()))
    slopes = torch.tensor(HARD)
    with sign_steps(
        {"theta": theta}, lambda: -(weights * slopes * (theta + theta.square())).sum(), steps=4,
        size=0.25,
    ):  # fmt: skip
        return slopes * theta.detach().square()


def test_the_things_that_barely_rise_are_the_worst_case() -> None:
    found = Selector().select(forgetting, 6, 2)
    assert sorted(found.chosen) == [0, 3]
    assert found.weights.sum(1).tolist() == pytest.approx([2] * 10)
    assert found.losses.shape == found.weights.shape == (10, 6)


def test_the_sign_reversed_finds_the_easiest() -> None:
    assert sorted(Selector(easiest=True).select(forgetting, 6, 2).chosen) == [1, 4]


def test_it_weighs_what_is_forgotten_together() -> None:
    """Two things that hide behind each other stay known as a pair, which no ranking of one tells.

    Alone, the third is the hardest, and it is at equal weights.
    """

    def losses(weights: Tensor) -> Tensor:
        hidden = 0.5 - 0.4 * weights[:2].flip(0)
        return torch.cat([hidden, torch.tensor([0.3, 0.6, 0.7])])

    def value(pair: tuple[int, int]) -> float:
        weights = torch.zeros(5)
        weights[list(pair)] = 1
        return float((weights * losses(weights)).sum())

    assert losses(torch.full((5,), 0.4)).argmin() == 2
    assert min(combinations(range(5), 2), key=value) == (0, 1)
    assert sorted(Selector().select(losses, 5, 2).chosen) == [0, 1]


def test_the_nearest_point_of_a_sum() -> None:
    """Against the conditions that tell the nearest point: what is free moved by one shift."""
    values = torch.tensor([2.0, 0.3, 0.25, -1.0, 0.9], dtype=torch.float64)
    found = onto_share(values, 2)
    assert float(found.sum()) == pytest.approx(2, abs=1e-12)
    assert found.min() >= 0
    assert found.max() <= 1
    free = (found > 0) & (found < 1)
    shifts = (values - found)[free]
    assert free.sum() == 3
    assert float(shifts.max() - shifts.min()) < 1e-12
    assert values[0] - found[0] > shifts[0]  # it would go on above 1
    assert values[3] - found[3] < shifts[0]
    already = torch.tensor([1, 0, 1], dtype=torch.float64)
    assert torch.allclose(onto_share(already, 2), already)


def test_sign_steps_are_taken_back_to_the_bit() -> None:
    weight = nn.Parameter(torch.tensor([0.1, -0.7, 0.3]))
    before = weight.detach().clone()
    with sign_steps({"w": weight}, lambda: (weight * torch.tensor([2.0, -5, 0])).sum(), steps=3,
                    size=0.1):  # fmt: skip
        assert torch.allclose(weight.detach(), before + torch.tensor([-0.3, 0.3, 0]))
    assert torch.equal(weight, before)
    assert not weight.requires_grad


@pytest.mark.parametrize("count", [0, 6, 7])
def test_more_than_there_is_is_refused_in_one_line(count: int) -> None:
    with pytest.raises(SettingError, match=f"from 1 to 5, fewer than the 6 there are; got {count}"):
        Selector().select(forgetting, 6, count)


def test_losses_that_say_nothing_are_refused() -> None:
    with pytest.raises(SettingError, match="losses must differ"):
        Selector().select(torch.ones_like, 6, 2)
    with pytest.raises(SettingError, match="one number for each of the 6"):
        Selector().select(lambda _: torch.ones(5), 6, 2)
    with pytest.raises(DivergedError, match="not finite"):
        Selector().select(lambda w: w / 0, 6, 2)
    with pytest.raises(SettingError, match="rate must be above 0"):
        Selector(rate=0)
