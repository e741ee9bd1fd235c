"""What learns: weights, the loss that they go down, and the optimiser that takes them there."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from erasure.training.masters import Masters
from erasure.training.optimisers import ADAM, Optimiser, put_slots, slots_of
from erasure.training.processes import average
from erasure.training.run import Run

LOWEST_SCALE = 2.0**-10


@dataclass(frozen=True)
class Learner:
    """Weights, their loss, and how they are moved down it.

    `loss(step)` gives named scalar terms, means over `run.part` of the batch, and is asked for each
    of the run's `pieces`. `rate` is the learning rate. `clip` bounds every element of the
    gradients. `masks` (bool, one per weight) say what may move, within what the run is holding.
    `start` has the float32 values of weights that are in less; in the end they are float32 again.
    """

    loss: Callable[[int], dict[str, Tensor]]
    weights: Mapping[str, nn.Parameter]
    rate: float
    by: Optimiser = ADAM
    clip: float | None = None
    masks: Mapping[str, Tensor] | None = None
    start: Mapping[str, Tensor] | None = None


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


def held_masks(learner: Learner, run: Run) -> dict[str, Tensor]:
    """The learner's masks, of which what the run is holding is taken away."""
    masks = dict(learner.masks or {})
    for name, weight in learner.weights.items():
        if weight in run.held:
            held = run.held[weight].to(weight.device)
            masks[name] = masks[name] & held if name in masks else held
    return masks


class Descent:
    """A learner on its way: its masters, its optimiser and, in fp16, its loss's scale.

    With a fused Adam, which can call a step off on the device, it `may_wait` for a check.
    """

    def __init__(self, learner: Learner, run: Run, *, is_fused: bool | None = None) -> None:
        self.learner, self.run = learner, run
        self.masters = Masters(learner.weights, held_masks(learner, run), learner.start)
        by, in_8_bits = learner.by, run.hardware.use_8bit_adam
        if is_fused is None:
            is_fused = run.device.type == "cuda" and by.kind.startswith("adam") and not in_8_bits
        parameters = list(self.masters.moving.values())
        self.optimiser = by.over(parameters, learner.rate, in_8_bits=in_8_bits, is_fused=is_fused)
        self.scaler = torch.amp.GradScaler(run.device.type, enabled=run.low is torch.float16)
        self.may_wait = is_fused and not self.scaler.is_enabled()
        self.device = parameters[0].device

    def backward(self, step: int) -> tuple[list[str], Tensor]:
        """Leave the gradients of a step's loss in the masters; its terms' names and values.

        Both are means over the pieces of a batch, each done with before the next is asked for, and
        over the processes.
        """
        names, count = list[str](), self.run.hardware.gradient_accumulation
        values = torch.zeros((), device=self.device)
        for _ in self.run.pieces():
            with nullcontext() if self.masters.are_low else self.run.autocast():
                terms = self.learner.loss(step)
            names, stacked = list(terms), torch.stack(list(terms.values())) / count
            self.scaler.scale(stacked.sum()).backward()
            values = values + stacked.detach().float()
        self.masters.take_gradients()
        average([values, *self.masters.gradients])
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimiser)  # type: ignore[arg-type]
        return names, values

    def is_bad(self, values: Tensor) -> Tensor:
        """Whether these, or a gradient, are not finite, or the scale is as good as zero."""
        largest = values.sum().abs()
        if self.scaler.is_enabled():  # it expects infinite gradients
            return ~torch.isfinite(largest) | (self.scaler.get_scale() < LOWEST_SCALE)
        if gradients := self.masters.gradients:
            norm = nn.utils.get_total_norm(gradients, float("inf"))
            largest = torch.stack([largest, norm.to(largest)]).max()
        return ~torch.isfinite(largest)

    def step(self, share: float) -> None:
        """One step down the gradients, at a share of the learning rate."""
        if self.learner.clip is not None:
            nn.utils.clip_grad_value_(list(self.masters.moving.values()), self.learner.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learner.rate * share
        self.scaler.step(self.optimiser)  # type: ignore[arg-type]
        self.scaler.update()
        self.optimiser.zero_grad()
        self.masters.give_back()

    def call_off(self, is_off: Tensor) -> None:
        """Let a fused Adam's next step do nothing, if so."""
        self.optimiser.found_inf = is_off.float()  # type: ignore[attr-defined]

    def state(self) -> dict[str, Tensor]:
        """Everything that `restore` needs."""
        state: dict[str, Tensor] = {f"weight.{n}": m for n, m in self.masters.moving.items()}
        state |= {f"optimiser.{name}": slot for name, slot in slots_of(self.optimiser).items()}
        if self.scaler.is_enabled():
            scaler = self.scaler.state_dict()
            state["scaler"] = torch.tensor([scaler["scale"], scaler["_growth_tracker"]])
        return state

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a state."""
        for name, master in self.masters.moving.items():
            master.copy_(state[f"weight.{name}"])
        put_slots(self.optimiser, within(state, "optimiser"))
        if self.scaler.is_enabled():
            scale, tracker = state["scaler"].tolist()
            scaler = {"scale": scale, "_growth_tracker": int(tracker)}
            self.scaler.load_state_dict({**self.scaler.state_dict(), **scaler})
        self.masters.give_back()


def within(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Those whose names begin with this one and a dot, by the rest of their names."""
    start = f"{name}."
    return {n.removeprefix(start): tensor for n, tensor in tensors.items() if n.startswith(start)}
