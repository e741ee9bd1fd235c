"""Batches by step: which items a step works on, the same for any number of processes."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from erasure.models.classifier.classifier import Classifier
from erasure.training.run import Run
from erasure_datasets.classes import Labelled


def picked(count: int, batch: int, step: int, run: Run, name: str) -> Tensor:
    """This process's part of the step's batch of indices below `count`.

    Each pass goes through all of them in a new order, fixed by the run's seed and the name.
    """
    places = [divmod(place, count) for place in range(step * batch, (step + 1) * batch)]
    whole = torch.tensor([_order(run, name, epoch, count)[i] for epoch, i in places])
    return run.shard(whole).cpu()


def labelled(
    model: Classifier, part: Labelled, batch: int, step: int, run: Run, name: str
) -> tuple[Tensor, Tensor]:
    """The step's prepared images and their labels, on the run's device."""
    chosen = picked(len(part), batch, step, run, name)
    return model.prepare(part.images[chosen]), part.labels[chosen].to(run.device)


def augmented(x: Tensor, run: Run) -> Tensor:
    """Prepared images shifted by up to a tenth, half the batches mirrored, brightness varied."""
    size = x.shape[-1]
    reach = size // 10
    dice = torch.rand((run.whole(len(x)), 4), generator=run.generator)
    mirror = bool(torch.rand((), generator=run.generator) < 0.5)
    rows = run.shard(dice).to(x.device)
    padded = F.pad(x, (reach,) * 4, mode="replicate")
    steps = torch.arange(size, device=x.device)
    down = (rows[:, 0] * (2 * reach + 1)).long()[:, None] + steps
    across = (rows[:, 1] * (2 * reach + 1)).long()[:, None] + steps
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[batch, down[:, :, None], across[:, None, :]]
    moved = moved.permute(0, 3, 1, 2)
    gain, offset = ((rows[:, 2:] - 0.5) * 0.3).unbind(1)
    moved = moved * (1 + gain.view(-1, 1, 1, 1)) + offset.view(-1, 1, 1, 1)
    return moved.flip(3) if mirror else moved


@lru_cache(maxsize=8)
def _order(run: Run, name: str, epoch: int, count: int) -> list[int]:
    return torch.randperm(count, generator=run.generator_for(f"{name} {epoch}")).tolist()
