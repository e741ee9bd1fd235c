"""The processes of one launch (`accelerate launch`, torchrun), and each one's share of the work."""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, reduce
from torch import Tensor

SENT_AT_ONCE = 2**24  # numbers
LONGEST_WAIT = timedelta(days=1)  # of a process for one that has more to do
Item = TypeVar("Item")


def process_count() -> int:
    """How many processes the launch has, as it tells them; they need not have met yet."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_cpu_group(*, on_cpus: bool = False) -> bool:
    """Whether there are several processes and no GPU, or none that is asked for (`on_cpus`).

    They must be told to meet on CPUs, or each would be the main one.
    """
    return process_count() > 1 and (on_cpus or not torch.cuda.is_available())


def launched(*, on_cpus: bool = False) -> PartialState:
    """This process's place among all of its launch, which meet at the first call.

    `on_cpus`: even where there are GPUs.
    """
    return PartialState(cpu=is_cpu_group(on_cpus=on_cpus), timeout=LONGEST_WAIT)


def own_device() -> torch.device:
    """The device that is this process's own."""
    found: Any = launched().device
    return found


def share(items: Sequence[Item]) -> list[Item]:
    """This process's part: every n-th of them for n processes, which together have all."""
    state = launched()
    return list(items[state.process_index :: state.num_processes])


def own_range(count: int) -> range:
    """This process's part of `count` items in a row, which is as long as any other's or nearly."""
    state = launched()
    first, last = (count * (state.process_index + i) // state.num_processes for i in range(2))
    return range(first, last)


def everyones(items: list[Item]) -> list[Item]:
    """The items of all processes, the first one's first."""
    launched()
    return gather_object(items)  # type: ignore[no-any-return]


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their means over the processes, many at a time."""
    if launched().num_processes == 1:
        return
    batches: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        size += tensor.numel()
        if size > SENT_AT_ONCE and batches[-1]:
            batches.append([])
            size = tensor.numel()
        batches[-1].append(tensor)
    for batch in filter(None, batches):
        means: Any = reduce(torch.cat([tensor.flatten() for tensor in batch]), "mean")
        for tensor, mean in zip(batch, means.split([t.numel() for t in batch]), strict=True):
            tensor.copy_(mean.view_as(tensor))
