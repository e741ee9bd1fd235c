"""A dry run's rehearsal: a method at work on the real model, cut short; nothing of it is kept."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor

STEPS, SECONDS = 5, 20.0  # of a training that is timed, and of any other stage


class Enough(Exception):  # noqa: N818  nothing is wrong
    """Enough has been seen of the run."""


@dataclass
class Stage:
    """A stage with a bar, and when its units were done; it costs more as its settings grow."""

    name: str
    total: int
    grows_with: Sequence[str]
    is_training: bool
    ends: list[float] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def done(self) -> int:
        return len(self.ends)

    @property
    def seconds(self) -> float:
        """Of one unit, without the first, which warms things up, if there are more."""
        if self.done > 1:
            return (self.ends[-1] - self.ends[0]) / (self.done - 1)
        return self.ends[0] - self.began if self.ends else 0.0


class Rehearsal:
    """What a run is handed that shall only be timed: it writes nothing, and ends by `Enough`.

    That comes a few steps into its first training, or once another stage has lasted some time.
    `learnt` are the sizes of what the training moves, by name, and `state_bytes` what it would keep
    to resume from; both stay empty if no training is reached.
    """

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self.learnt: dict[str, int] = {}
        self.state_bytes = 0

    def stage(self, found: Stage, device: torch.device) -> Callable[[int], None]:
        """Begin to time a stage; what is to be called after each of its units."""
        self.stages.append(found)

        def watch(done: int) -> None:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            found.ends.append(time.monotonic())
            is_long = found.ends[-1] - found.began > SECONDS
            if is_long and done < found.total and not found.is_training:
                raise Enough

        return watch

    @property
    def is_enough(self) -> bool:
        """Whether the stage in progress has been timed well."""
        if not self.stages:
            return False
        last = self.stages[-1]
        return last.done >= STEPS or (last.done > 0 and last.ends[-1] - last.began > SECONDS)

    def end(self, state: Mapping[str, Tensor]) -> NoReturn:
        """Take the measure of a state that would be written now, and end."""
        self.state_bytes = sum(tensor.nbytes for tensor in state.values())
        learners = list(dict.fromkeys(name.split(".")[0] for name in state if ".weight." in name))
        start = (
            f"{learners[-1]}.weight." if learners else ""
        )  # a critic learns before what it is for
        self.learnt = {
            name.removeprefix(start): tensor.numel()
            for name, tensor in state.items()
            if start and name.startswith(start)
        }
        raise Enough
