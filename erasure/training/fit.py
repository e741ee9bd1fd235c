"""The one optimisation loop; methods call it with what learns."""

from collections.abc import Mapping

from torch import Tensor

from erasure.training.learner import Learner
from erasure.training.run import Run
from erasure.training.stepping import Stepping


def fit(
    learners: Learner | Mapping[str, Learner], *, steps: int, run: Run, stage: str = "fit",
    carried: Mapping[str, Tensor] | None = None,
) -> None:  # fmt: skip
    """Move each learner's weights down the sum of its loss's terms, resuming an interrupted run.

    Of several, by name, each has a turn in every step, in order, and only then do its weights ask
    for gradients; `trainable` lends them to another's turn. Their terms, named apart, share a line
    of the log. `carried` are tensors that a loss changes in place from step to step; they resume as
    well. A network learns in eval mode, BatchNorm's statistics fixed, unless a loss says otherwise.
    DivergedError, with the learner's name, if a loss or gradient is not finite; the state
    before that step is kept and named.
    """
    named = {"learner": learners} if isinstance(learners, Learner) else learners
    stepping = Stepping(named, run, stage, carried=carried or {})
    try:
        first, note = stepping.restore(), ""
        with run.progress(stage, steps, first, is_training=True) as bar:
            for step in range(first, steps):
                stepping.take(step, steps)
                is_due = run.is_due
                if is_due or stepping.is_due or step + 1 == steps:
                    note = stepping.read()
                bar.advance(note)
                run.watch(stage, step + 1)
                if is_due or (step + 1 == steps):
                    stepping.keep(step + 1)
                    if run.is_only_tried:
                        break
    finally:
        stepping.close()
