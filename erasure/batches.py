"""Batches by step: which items a step works on, the same for any number of processes."""

from functools import lru_cache

import torch
from torch import Tensor

from erasure.models.vit import ViTModel
from erasure.run import Run
from erasure_datasets.classes import Labelled


def picked(count: int, batch: int, step: int, run: Run, name: str) -> Tensor:
    """This process's part of the step's batch of indices below `count`.

    Each pass goes through all of them in a new order, fixed by the run's seed and the name.
    """
    places = [divmod(place, count) for place in range(step * batch, (step + 1) * batch)]
    whole = torch.tensor([_order(run, name, epoch, count)[i] for epoch, i in places])
    return run.shard(whole).cpu()


def labelled(
    model: ViTModel, part: Labelled, batch: int, step: int, run: Run, name: str
) -> tuple[Tensor, Tensor]:
    """The step's prepared images and their labels, on the run's device."""
    chosen = picked(len(part), batch, step, run, name)
    return model.prepare(part.images[chosen]), part.labels[chosen].to(run.device)


@lru_cache(maxsize=8)
def _order(run: Run, name: str, epoch: int, count: int) -> list[int]:
    return torch.randperm(count, generator=run.generator_for(f"{name} {epoch}")).tolist()
