"""Which items a step works on."""

from pathlib import Path

import torch
from torch import Tensor

from erasure.training.batches import picked
from erasure.training.run import Run


def order(folder: Path, seed: int, name: str) -> Tensor:
    """Two passes over ten items, in batches of four."""
    run = Run(folder, seed=seed)
    return torch.cat([picked(10, 4, step, run, name) for step in range(5)])


def test_each_pass_goes_through_all_in_an_order_of_its_own(tmp_path: Path) -> None:
    whole = order(tmp_path, 0, "forget")
    first, second = whole.split(10)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert not torch.equal(first, second)
    assert torch.equal(order(tmp_path, 0, "forget"), whole)
    for other in (order(tmp_path, 1, "forget"), order(tmp_path, 0, "retain")):
        assert not torch.equal(other, whole)
