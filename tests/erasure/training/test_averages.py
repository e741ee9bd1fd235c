"""Averages against the closed form."""

import pytest
import torch

from erasure.training.averages import Average, share_of_step


def test_a_mean_follows_and_is_put() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    mean = Average({"w": weight})
    weight.data += 1
    mean.follow(0.25)
    mean.follow(0.25)
    assert torch.equal(weight.detach(), torch.ones(3))
    mean.put()
    assert torch.allclose(weight.detach(), torch.full((3,), 1 - 0.75**2))
    weight.data += 5
    mean.follow(1)
    assert torch.equal(mean.means["w"], weight.detach())


def test_the_first_steps_count_for_more() -> None:
    assert share_of_step(0, 0.995) == pytest.approx(0.9)
    assert share_of_step(10**6, 0.995) == pytest.approx(0.005)
