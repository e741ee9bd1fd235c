"""The one optimisation loop; methods call it with a loss."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from erasure.training.masters import Masters
from erasure.training.optimisers import ADAM, Optimiser
from erasure.training.run import Run
from erasure.training.stepping import Stepping


@contextmanager
def trainable(weights: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Within it, these weights ask for gradients; afterwards they hold none."""
    for parameter in weights.values():
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in weights.values():
            parameter.requires_grad_(False)
            parameter.grad = None


def fit(
    loss: Callable[[int], dict[str, Tensor]], weights: Mapping[str, nn.Parameter], *, steps: int,
    learning_rate: float, run: Run, stage: str = "fit", masks: Mapping[str, Tensor] | None = None,
    carried: Mapping[str, Tensor] | None = None, by: Optimiser = ADAM, clip: float | None = None,
    start: Mapping[str, Tensor] | None = None, before: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    """Minimise the sum of the loss's terms over `weights`, resuming an interrupted run.

    `loss(step)` gives named scalar terms, means over `run.part` of the batch, and is asked for each
    of the run's `pieces`; `before` is called ahead of each step. `masks` (bool, one per weight) say
    what may move. `carried` are tensors that `loss` changes in place from step to step; they resume
    as well. `clip` bounds every element of the gradients. `start` has the float32 values of weights
    that are in less; in the end they are float32 again. A network learns in eval mode, BatchNorm's
    statistics fixed, unless `loss` says otherwise. DivergedError if a loss or gradient is not
    finite; the state before that step is kept and named.
    """
    masters = Masters(weights, masks, start)
    stepping = Stepping(masters, by, learning_rate, run, stage, carried=carried or {}, clip=clip)

    def parts(step: int) -> Iterator[dict[str, Tensor]]:
        for _ in run.pieces():
            with stepping.precision():
                terms = loss(step)
            yield terms

    try:
        first, note = stepping.restore(), ""
        with trainable(weights), run.progress(stage, steps, first) as bar:
            for step in range(first, steps):
                if before is not None:
                    with stepping.precision():
                        before()
                stepping.take(step, parts(step), learning_rate * by.rate(step, steps))
                is_due = run.is_due
                if is_due or stepping.is_due or step + 1 == steps:
                    note = stepping.read()
                bar.advance(note)
                run.watch(stage, step + 1)
                if is_due or (step + 1 == steps):
                    stepping.keep(step + 1)
    finally:
        masters.close()
