"""Linear probes: what is in the features and nothing else, and no image judged by its own fit."""

from collections.abc import Callable

import pytest
import torch

from evaluation.metrics.linear_probe import crossed_probe, probe
from evaluation.score import Score


@pytest.mark.parametrize("judge", [probe, crossed_probe])
def test_a_probe_tells_what_is_there_and_nothing_else(judge: Callable[..., Score]) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 1] * 60)
    noise = torch.randn(120, 4, generator=generator, dtype=torch.float64)
    assert 0.3 < judge(noise, labels).value < 0.7
    told = noise.clone()
    told[:, 2] += 8 * labels
    found = judge(told, labels)
    assert found.value > 0.97
    # a scale or a shift of the features says nothing
    assert judge(1e3 * told + 5, labels).value == pytest.approx(found.value)


def test_every_image_is_judged_once_and_never_by_a_fit_that_saw_it() -> None:
    """With more features than images any labels can be learned by heart."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([1] * 12 + [0] * 60)
    noise = torch.randn(72, 200, generator=generator)
    found = crossed_probe(noise, labels)
    assert found.n == 72
    assert 0.35 < found.value < 0.65
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low < found.value < found.high <= 1


def test_the_rare_side_counts_as_much_as_the_other() -> None:
    labels = torch.tensor([1] * 4 + [0] * 96)
    same = torch.zeros(100, 3)
    assert crossed_probe(same, labels).value == 0.5  # 0.96 of all images are of the other side


def test_two_images_of_a_side_are_enough() -> None:
    labels = torch.tensor([1, 0, 0, 1, 0])
    features = torch.stack([4.0 * labels, torch.zeros(5)], 1)
    assert crossed_probe(features, labels).value == 1
