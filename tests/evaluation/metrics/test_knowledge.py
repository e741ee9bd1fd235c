"""Distances to a gold model: against second implementations, in float64."""

import math

import pytest
import torch
from flow import MiniatureFlow

from evaluation.metrics.knowledge import divergence, gap, judge_distance, losses, ratio


def latents(seed: int, count: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 4, 4, generator=generator, dtype=torch.float64)


def moved(seed: int) -> MiniatureFlow:
    model = MiniatureFlow()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters().values():
            weight += 0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return model


def test_losses_are_the_mean_squared_errors_at_each_level() -> None:
    model, z0 = MiniatureFlow(), latents(0)
    told = model.encode(["a cat"] * 5)
    found = losses(model, z0, told, levels=4, seed=3)
    generator = torch.Generator().manual_seed(3)
    for level, t in enumerate((125, 375, 625, 875)):
        noise = torch.randn(z0.shape, generator=generator).double()
        for row in range(5):
            sigma = t / 1000
            z_t = (1 - sigma) * z0[row : row + 1] + sigma * noise[row : row + 1]
            said = model.backbone(z_t, torch.tensor([sigma]).double(), told[row : row + 1])
            error = (said - (noise[row] - z0[row])).square().sum() / z0[row].numel()
            assert found[row, level] == pytest.approx(float(error), rel=1e-9)


def test_divergence_is_zero_for_equal_models_and_counts_both_ways() -> None:
    edited, gold = moved(1), moved(2)
    told = edited.encode(["a cat"] * 5)
    own, theirs = latents(3), latents(4)

    def all_losses(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked = {"levels": 3, "seed": 0}
        return losses(edited, pictures, told, **asked), losses(gold, pictures, told, **asked)

    first, second = all_losses(own), all_losses(theirs)
    found = divergence(first, second)
    there = sum(float(first[1][row].mean() - first[0][row].mean()) for row in range(5)) / 5
    back = sum(float(second[0][row].mean() - second[1][row].mean()) for row in range(5)) / 5
    assert found.value == pytest.approx(there + back, rel=1e-9)
    assert found.value != 0
    same = losses(gold, own, told, levels=3)
    assert divergence((same, same), (same, same)).value == 0


def test_the_gap_is_paired_and_signed() -> None:
    edited = torch.tensor([[1.0, 3.0], [2.0, 2.0], [6.0, 2.0]], dtype=torch.float64)
    gold = torch.tensor([[2.0, 2.0], [3.0, 3.0], [4.0, 2.0]], dtype=torch.float64)
    found = gap(edited, gold)  # per picture 0, -1, 1
    assert found.value == pytest.approx(0)
    assert found.stderr == pytest.approx(1 / math.sqrt(3))
    assert found.n == 3


def test_judged_labels_are_compared_by_their_shares() -> None:
    cats, dogs = torch.zeros(8, dtype=torch.long), torch.ones(8, dtype=torch.long)
    assert judge_distance(cats, dogs, 3).value == 1
    assert judge_distance(cats, cats, 3).value == 0
    half = torch.cat([cats[:4], dogs[:4]])
    found = judge_distance(half, cats, 3)
    assert found.value == pytest.approx(0.5)
    # eight labels of chance 1/2 on one side alone: sqrt(p (1 - p) / 8)
    assert found.stderr == pytest.approx(math.sqrt(0.25 / 8), rel=0.15)
    assert found.low is not None
    assert found.low >= 0


@pytest.mark.parametrize(
    ("edited", "gold", "want"),
    [
        ([10, 8, None], [40, 20, 60], 0.25),
        ([None, None], [30, None], 2.0),
        ([None], [20], 3.0),
        ([30], [None], 0.5),
    ],
)
def test_relearning_counts_the_worst_of_the_grid(
    edited: list[int | None], gold: list[int | None], want: float
) -> None:
    found = ratio(edited, gold, 60)
    assert found is not None
    assert found.value == pytest.approx(want)


def test_where_neither_relearned_nothing_is_known() -> None:
    """It was 1 once, as if never learned."""
    assert ratio([None, None], [None, None], 60) is None
