"""The one optimisation loop; methods call it with what learns."""

from collections.abc import Callable, Mapping

from torch import Tensor

from erasure.training.learner import Learner
from erasure.training.run import Run
from erasure.training.stepping import Stepping


def fit(
    learners: Learner | Mapping[str, Learner], *, steps: int, run: Run, stage: str = "fit",
    carried: Mapping[str, Tensor] | None = None, until: Callable[[int], bool] | None = None,
) -> None:  # fmt: skip
    """Move each learner's weights down the sum of its loss's terms, resuming an interrupted run.

    Of several, by name, each has a turn in every step, in order, and only then do its weights ask
    for gradients; `trainable` lends them to another's turn. Their terms, named apart, share a line
    of the log. `carried` are tensors that a loss changes in place from step to step; they resume as
    well. A network learns in eval mode, BatchNorm's statistics fixed, unless a loss says otherwise.
    Where `until` of the number of steps done is true, it ends early; a resumed run asks again, so
    that it must follow from that number and the weights alone.
    DivergedError, with the learner's name, if a loss or gradient is not finite; the state
    before that step is kept and named.
    """
    named = {"learner": learners} if isinstance(learners, Learner) else learners
    stepping = Stepping(named, run, stage, carried=carried or {})
    try:
        first, note = stepping.restore(), ""
        if until is not None and 0 < first < steps and until(first):
            steps = first  # killed between its end and the edit
        with run.progress(stage, steps, first, is_training=True) as bar:
            for step in range(first, steps):
                stepping.take(step, steps)
                is_last = step + 1 == steps or (until is not None and until(step + 1))
                is_due = run.is_due
                if is_due or stepping.is_due or is_last:
                    note = stepping.read()
                bar.advance(note)
                run.watch(stage, step + 1)
                if is_due or is_last:
                    stepping.keep(step + 1)
                if is_last or (is_due and run.is_only_tried):
                    break
    finally:
        stepping.close()
