"""Batches by step: which items a step works on, the same for any number of processes."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from erasure.models.classifier.classifier import Classifier
from erasure.training.run import Run
from erasure_datasets.labelled import Labelled, Pictures


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
    """The step's prepared images and their labels, on the run's device.

    Where they do not lie in memory, the next step's are read meanwhile.
    """
    chosen = picked(len(part), batch, step, run, name)
    images = part.images[chosen]
    if isinstance(part.images, Pictures):
        part.images.ask(picked(len(part), batch, step + 1, run, name))
    return model.prepare(images), part.labels[chosen].to(run.device)


def augmented(x: Tensor, run: Run) -> Tensor:
    """Prepared images shifted by up to a tenth, half the batches mirrored, brightness varied."""
    dice = torch.rand((run.whole(len(x)), 4), generator=run.generator)
    mirror = bool(torch.rand((), generator=run.generator) < 0.5)
    rows = run.shard(dice).to(x.device)
    moved = _shifted(x, rows[:, :2], x.shape[-1] // 10, "replicate")
    gain, offset = ((rows[:, 2:] - 0.5) * 0.3).unbind(1)
    moved = moved * (1 + gain.view(-1, 1, 1, 1)) + offset.view(-1, 1, 1, 1)
    return moved.flip(3) if mirror else moved


def cropped(x: Tensor, run: Run, *, shift: float, mirror: bool) -> Tensor:
    """Prepared images cut out of their padding by zeros, and every other one mirrored by chance.

    `shift` is how far a cut may lie off the middle, as a share of the side: 4 of 32 pixels is the
    usual one.
    """
    rows = run.shard(torch.rand((run.whole(len(x)), 3), generator=run.generator)).to(x.device)
    moved = _shifted(x, rows[:, :2], round(shift * x.shape[-1]), "constant")
    if not mirror:
        return moved
    return torch.where((rows[:, 2] < 0.5).view(-1, 1, 1, 1), moved.flip(3), moved)


def _shifted(x: Tensor, dice: Tensor, reach: int, padding: str) -> Tensor:
    """Each image moved by up to `reach` pixels, down and across, as two dice in [0, 1) say."""
    size = x.shape[-1]
    padded = F.pad(x, (reach,) * 4, mode=padding)
    steps = torch.arange(size, device=x.device)
    down = (dice[:, 0] * (2 * reach + 1)).long()[:, None] + steps
    across = (dice[:, 1] * (2 * reach + 1)).long()[:, None] + steps
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[batch, down[:, :, None], across[:, None, :]]
    return moved.permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _order(run: Run, name: str, epoch: int, count: int) -> list[int]:
    return torch.randperm(count, generator=run.generator_for(f"{name} {epoch}")).tolist()
