"""Optimiser steps that do not wait for the device, with their log and their saved state."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from erasure.errors import DivergedError
from erasure.training.masters import Masters
from erasure.training.optimisers import Optimiser
from erasure.training.processes import average
from erasure.training.run import Run

READ_EVERY = 10
LOWEST_SCALE = 2.0**-10


class Stepping:
    """Steps of one optimiser over masters.

    A fused Adam can call a step off on the device. With it, losses are read and checked every
    `READ_EVERY` steps; once a loss or gradient was not finite no step is taken any more, so that
    the state stays as it was before. Any other optimiser, and fp16, whose scale the host sets,
    check every step.
    """

    def __init__(
        self, masters: Masters, by: Optimiser, learning_rate: float, run: Run, stage: str, *,
        carried: Mapping[str, Tensor], clip: float | None, is_fused: bool | None = None,
    ) -> None:  # fmt: skip
        self.masters, self.run, self.stage, self.clip = masters, run, stage, clip
        self.carried, in_8_bits = dict(carried), run.hardware.use_8bit_adam
        if is_fused is None:
            is_fused = run.device.type == "cuda" and by.kind.startswith("adam") and not in_8_bits
        parameters = list(masters.moving.values())
        self.optimiser = by.over(parameters, learning_rate, in_8_bits=in_8_bits, is_fused=is_fused)
        self.scaler = torch.amp.GradScaler(run.device.type, enabled=run.low is torch.float16)
        self._may_wait = is_fused and not self.scaler.is_enabled()
        self._pending: list[tuple[int, list[str], Tensor]] = []
        self._first_bad = torch.full((), -1.0, device=parameters[0].device)
        if self.scaler.is_enabled():
            self.carried["scaler"] = torch.tensor([self.scaler.get_scale(), 0.0])

    def precision(self) -> AbstractContextManager[object]:
        """What the loss is computed under."""
        return nullcontext() if self.masters.are_low else self.run.autocast()

    def restore(self) -> int:
        """Go back to an interrupted run's state; the step to go on from."""
        first = self.run.restore(self.stage, self.masters.moving, self.optimiser, self.carried)
        if self.scaler.is_enabled():
            scale, tracker = self.carried["scaler"].tolist()
            state = {"scale": scale, "_growth_tracker": int(tracker)}
            self.scaler.load_state_dict({**self.scaler.state_dict(), **state})
        self.masters.give_back()
        return first

    def take(self, step: int, parts: Iterable[Mapping[str, Tensor]], learning_rate: float) -> None:
        """One step down the sum of the terms, averaged over the parts that a batch is taken in.

        Each part is done with before the next is asked for. DivergedError, perhaps some steps late.
        """
        self.optimiser.zero_grad()
        names, count = list[str](), self.run.hardware.gradient_accumulation
        values = torch.zeros((), device=self._first_bad.device)
        for terms in parts:
            names, stacked = list(terms), torch.stack(list(terms.values())) / count
            self.scaler.scale(stacked.sum()).backward()
            values = values + stacked.detach().float()
        self.masters.take_gradients()
        average([values, *self.masters.gradients])
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimiser)  # type: ignore[arg-type]
        self._check(step, values.sum())
        if self.clip is not None:
            nn.utils.clip_grad_value_(list(self.masters.moving.values()), self.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.scaler.step(self.optimiser)  # type: ignore[arg-type]
        self.scaler.update()
        self.masters.give_back()
        self._pending.append((step, names, values))

    def _check(self, step: int, total: Tensor) -> None:
        gradients = self.masters.gradients
        largest = total.abs()
        if gradients and not self.scaler.is_enabled():  # a scaler expects infinite ones
            norm = nn.utils.get_total_norm(gradients, float("inf"))
            largest = torch.stack([largest, norm.to(largest)]).max()
        is_bad = ~torch.isfinite(largest)
        if self._may_wait:
            is_first = is_bad & (self._first_bad < 0)
            self._first_bad = torch.where(is_first, float(step), self._first_bad)
            self.optimiser.found_inf = (self._first_bad >= 0).float()  # type: ignore[attr-defined]
        elif is_bad or (self.scaler.is_enabled() and self.scaler.get_scale() < LOWEST_SCALE):
            raise self._diverged(step, total.item())

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
            if step == first_bad:
                raise self._diverged(step, loss)
            self.run.log(self.stage, step, values)
        self._pending.clear()
        return f"loss {loss:.4f}"

    def keep(self, step: int, *, is_diverged: bool = False) -> Path:
        """Write the state from before `step`."""
        if self.scaler.is_enabled():
            state = self.scaler.state_dict()
            self.carried["scaler"].copy_(torch.tensor([state["scale"], state["_growth_tracker"]]))
        return self.run.save_state(
            self.stage, step, self.masters.moving, self.optimiser, self.carried,
            is_diverged=is_diverged,
        )  # fmt: skip

    def _diverged(self, step: int, loss: float) -> DivergedError:
        # what is carried, and the generator, may be ahead of the weights: nothing to go on from
        file = self.keep(step, is_diverged=True)
        return DivergedError(
            f"a loss or gradient of {self.stage} became NaN or infinite at step {step} "
            f"(loss {loss:.4g}); the weights from before it are kept in {file}. "
            "Lower learning_rate and use another --out."
        )
