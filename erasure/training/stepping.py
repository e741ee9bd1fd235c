"""Steps of one or several learners that do not wait for the device, their log and saved state."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from erasure.errors import DivergedError
from erasure.training.learner import Descent, Learner, trainable, within
from erasure.training.run import Run

READ_EVERY = 10


class Stepping:
    """Steps in which every learner has its turn, in order.

    Where all of them may wait, losses are read and checked every `READ_EVERY` steps; once a loss
    or gradient was not finite none takes a step any more, so that the state stays as it was
    before. Else every turn is checked.
    """

    def __init__(
        self, learners: Mapping[str, Learner], run: Run, stage: str, *,
        carried: Mapping[str, Tensor], is_fused: bool | None = None,
    ) -> None:  # fmt: skip
        self.descents = {who: Descent(one, run, is_fused=is_fused) for who, one in learners.items()}
        self.run, self.stage, self.carried = run, stage, carried
        descents = list(self.descents.values())
        times = Counter(id(w) for one in learners.values() for w in one.weights.values())
        for descent in descents:
            own = map(id, descent.learner.weights.values())
            descent.masters.are_shared = any(times[weight] > 1 for weight in own)
        self._may_wait = all(descent.may_wait for descent in descents)
        self._pending: list[tuple[int, list[str], Tensor]] = []
        self._first_bad = torch.full((), -1.0, device=descents[0].device)  # a turn's number

    @torch.no_grad()
    def restore(self) -> int:
        """Go back to an interrupted run's state; the step to go on from."""
        step, state = self.run.restore(self.stage, self._state())
        if state:
            for name, value in self.carried.items():
                value.copy_(state[f"carried.{name}"])
            for who, descent in self.descents.items():
                descent.restore(within(state, who))
        return step

    def take(self, step: int, steps: int) -> None:
        """One step, of so many, of each learner. DivergedError, perhaps some steps late."""
        names, values = list[str](), list[Tensor]()
        for index, descent in enumerate(self.descents.values()):
            with trainable(descent.learner.weights):
                own, found = descent.backward(step)
                self._check(step * len(self.descents) + index, descent, found)
                descent.step(descent.learner.by.rate(step, steps))
            names, values = names + own, [*values, found]
        self._pending.append((step, names, torch.cat(values)))

    def _check(self, turn: int, descent: Descent, values: Tensor) -> None:
        is_bad = descent.is_bad(values)
        if self._may_wait:
            is_first = is_bad & (self._first_bad < 0)
            self._first_bad = torch.where(is_first, float(turn), self._first_bad)
            descent.call_off(self._first_bad >= 0)
        elif is_bad:
            raise self._diverged(turn, values.sum().item())

    @property
    def is_due(self) -> bool:
        """Whether it is time to `read`."""
        return len(self._pending) >= (READ_EVERY if self._may_wait else 1) or self.run.is_due

    def read(self) -> str:
        """Write what is pending to the log; the last loss. DivergedError if one was bad."""
        parts = [values for _, _, values in self._pending]
        *numbers, first_bad = torch.cat([*parts, self._first_bad[None]]).tolist()
        loss = 0.0
        for step, names, _ in self._pending:
            values = dict(zip(names, numbers, strict=False))
            numbers, loss = numbers[len(names) :], sum(values.values())
            if step == first_bad // len(self.descents):
                raise self._diverged(int(first_bad), loss)
            self.run.log(self.stage, step, values)
        self._pending.clear()
        return f"loss {loss:.4f}"

    def keep(self, step: int, *, is_diverged: bool = False) -> Path:
        """Write the state from before `step`."""
        return self.run.save_state(self.stage, step, self._state(), is_diverged=is_diverged)

    def close(self) -> None:
        """Make every learner's weights float32 again."""
        for descent in self.descents.values():
            descent.masters.close()

    def _state(self) -> dict[str, Tensor]:
        state = {f"carried.{name}": value for name, value in self.carried.items()}
        seen = set[int]()
        for who, descent in self.descents.items():
            for name, value in descent.state().items():
                # learners may share weights, and a file holds no tensor under two names
                state[f"{who}.{name}"] = value.detach().clone() if id(value) in seen else value
                seen.add(id(value))
        return state

    def _diverged(self, turn: int, loss: float) -> DivergedError:
        # what is carried, and the generator, may be ahead of the weights: nothing to go on from
        step, index = divmod(turn, len(self.descents))
        who = f" ({list(self.descents)[index]})" if len(self.descents) > 1 else ""
        file = self.keep(step, is_diverged=True)
        return DivergedError(
            f"a loss or gradient of {self.stage}{who} became NaN or infinite at step {step} "
            f"(loss {loss:.4g}); the weights from before it are kept in {file}. "
            "Lower learning_rate and use another --out."
        )
