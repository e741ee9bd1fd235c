"""The one optimisation loop; methods call it with a loss."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from erasure.errors import DivergedError
from erasure.run import Run, Stepper


class MuonAndAdam:
    """Muon on the matrices and AdamW on the rest, with one state for both."""

    def __init__(self, weights: Sequence[nn.Parameter], rate: float, weight_decay: float) -> None:
        matrices = [weight for weight in weights if weight.ndim == 2]
        others = [weight for weight in weights if weight.ndim != 2]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                matrices, lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(others, lr=rate, weight_decay=0.0),
        ]
        self.firsts = (0, len(matrices))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """The parts' states under consecutive numbers."""
        return {
            "state": {
                first + number: slots
                for first, part in zip(self.firsts, self.parts, strict=True)
                for number, slots in part.state_dict()["state"].items()
            }
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        ends = (*self.firsts[1:], float("inf"))
        for first, end, part in zip(self.firsts, ends, self.parts, strict=True):
            own = {n - first: s for n, s in state_dict["state"].items() if first <= n < end}
            part.load_state_dict({**part.state_dict(), "state": own})


@dataclass(frozen=True)
class Optimiser:
    """Which optimiser takes the steps; `cosine` lets the learning rate fall to 0 over them.

    "muon" is Muon for the matrices (Jordan et al., 2024, its update scaled to AdamW's) and AdamW
    for everything else.
    """

    kind: Literal["adam", "adamw", "sgd", "muon"] = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    momentum: float = 0.0
    cosine: bool = False

    def over(self, weights: Sequence[nn.Parameter], rate: float) -> Stepper:
        if self.kind == "muon":
            return MuonAndAdam(weights, rate, self.weight_decay)
        if self.kind == "sgd":
            return torch.optim.SGD(
                weights, lr=rate, momentum=self.momentum, weight_decay=self.weight_decay
            )
        kind = torch.optim.AdamW if self.kind == "adamw" else torch.optim.Adam
        return kind(weights, lr=rate, betas=self.betas, weight_decay=self.weight_decay)

    def rate(self, step: int, steps: int) -> float:
        """The factor on the learning rate at a step."""
        return (1 + math.cos(math.pi * step / steps)) / 2 if self.cosine else 1.0


ADAM = Optimiser()


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
) -> None:  # fmt: skip
    """Minimise the sum of the loss's terms over `weights`, resuming an interrupted run.

    `loss(step)` gives named scalar terms, means over this process's share of the batch. `masks`
    (bool, one per weight) say what may move: gradients elsewhere are 0, and whatever momentum or
    weight decay does there is taken back after each step.
    `carried` are tensors that `loss` changes in place from step to step; they resume as well.
    `clip` bounds every element of the gradients.
    DivergedError if a loss or gradient is not finite; the state before that step is kept and named.
    """
    optimiser = by.over(list(weights.values()), learning_rate)
    fixed = {name: weights[name].detach().clone() for name in masks or {}}
    start = run.restore(stage, weights, optimiser, carried)
    with trainable(weights), run.progress(stage, steps, start) as bar:
        for step in range(start, steps):
            with run.autocast():
                terms = loss(step)
            total = torch.stack(list(terms.values())).sum()
            optimiser.zero_grad()
            total.backward()
            run.average_gradients(weights)
            if not _is_finite(total, weights):
                file = run.save_state(stage, step, weights, optimiser, carried)
                raise DivergedError(
                    f"{stage} met a loss or gradient that is not finite at step {step} "
                    f"(loss {total.item():.4g}); the last good state is kept in {file}. "
                    "Lower learning_rate and use another --out."
                )
            if clip is not None:
                nn.utils.clip_grad_value_(list(weights.values()), clip)
            for name, mask in (masks or {}).items():
                gradient = weights[name].grad
                if gradient is not None:
                    gradient.mul_(mask)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * by.rate(step, steps)
            optimiser.step()
            with torch.no_grad():
                for name, mask in (masks or {}).items():
                    weights[name].copy_(torch.where(mask, weights[name], fixed[name]))
            values = {name: term.item() for name, term in terms.items()}
            run.log(stage, step, values)
            bar.advance(f"loss {sum(values.values()):.4f}")
            run.watch(stage, step + 1)
            run.checkpoint(stage, step + 1, weights, optimiser, carried)
        if start < steps:
            run.save_state(stage, steps, weights, optimiser, carried)


def _is_finite(total: Tensor, weights: Mapping[str, nn.Parameter]) -> bool:
    gradients = [parameter.grad for parameter in weights.values() if parameter.grad is not None]
    largest = torch.stack(
        [total.detach().abs(), *(gradient.abs().max() for gradient in gradients)]
    ).max()
    return bool(torch.isfinite(largest))
