"""Which optimiser takes the steps, in a form that a run can save and resume."""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Stepper(Protocol):
    """An optimiser, as far as a run needs one: it can be saved and loaded."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...

    def zero_grad(self) -> None: ...

    def step(self) -> object: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class Float32Muon(torch.optim.Muon):
    """torch's Muon, orthogonalising in float32: for processors without fast bfloat16 products.

    The update is scaled to AdamW's (`match_rms_adamw`), with Nesterov's momentum.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore  # noqa: ARG002
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                mean = state.setdefault("momentum_buffer", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - momentum)
                update = orthogonalised(
                    weight.grad.lerp(mean, momentum), group["ns_coefficients"], group["ns_steps"]
                )
                weight.mul_(1 - rate * group["weight_decay"])
                weight.add_(update, alpha=-rate * 0.2 * max(weight.shape) ** 0.5)


def orthogonalised(
    matrix: Float[Tensor, "a b"], coefficients: tuple[float, float, float], steps: int
) -> Float[Tensor, "a b"]:
    """About U V^T of U S V^T, by Newton and Schulz's quintic iteration in the matrix's own type."""
    a, b, c = coefficients
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if is_tall else x


class MuonAndAdam:
    """Muon on the matrices and AdamW on the rest, with one state for both."""

    def __init__(self, weights: Sequence[nn.Parameter], rate: float, weight_decay: float) -> None:
        matrices = [weight for weight in weights if weight.ndim == 2]
        others = [weight for weight in weights if weight.ndim != 2]
        muon = Float32Muon if matrices[0].device.type == "cpu" else torch.optim.Muon
        self.parts: list[torch.optim.Optimizer] = [
            muon(matrices, lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
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

    Over the first share `warmup` of them it rises evenly before that: together, one cycle.

    "muon" is Muon for the matrices (Jordan et al., 2024, its update scaled to AdamW's) and AdamW
    for everything else.
    """

    kind: Literal["adam", "adamw", "sgd", "muon"] = "adam"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    momentum: float = 0.0
    cosine: bool = False
    warmup: float = 0.0
    nesterov: bool = False

    def over(
        self, weights: Sequence[nn.Parameter], rate: float, *, in_8_bits: bool = False,
        is_fused: bool = False,
    ) -> Stepper:  # fmt: skip
        """The optimiser; the options are for Adam and AdamW."""
        if self.kind == "muon":
            return MuonAndAdam(weights, rate, self.weight_decay)
        if self.kind == "sgd":
            return torch.optim.SGD(
                weights,
                lr=rate,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                nesterov=self.nesterov,
            )
        options: dict[str, Any] = {
            "lr": rate, "betas": self.betas, "weight_decay": self.weight_decay,
        }  # fmt: skip
        if in_8_bits:
            bits: Any = importlib.import_module("bitsandbytes").optim
            return (bits.AdamW8bit if self.kind == "adamw" else bits.Adam8bit)(weights, **options)
        kind = torch.optim.AdamW if self.kind == "adamw" else torch.optim.Adam
        return kind(weights, fused=is_fused or None, **options)  # None: torch's own choice

    def rate(self, step: int, steps: int) -> float:
        """The factor on the learning rate at a step."""
        rising = self.warmup * steps
        if step < rising:
            return (step + 1) / (rising + 1)
        if rising:
            return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2
        return (1 + math.cos(math.pi * step / steps)) / 2 if self.cosine else 1.0


ADAM = Optimiser()


def slots_of(optimiser: Stepper) -> dict[str, Tensor]:
    """What an optimiser has noted of each weight; nothing before its first step."""
    return {
        f"{number}.{slot}": torch.as_tensor(value)
        for number, slots in optimiser.state_dict()["state"].items()
        for slot, value in slots.items()
        if value is not None
    }


def put_slots(optimiser: Stepper, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `slots_of` gave."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        number, _, slot = name.partition(".")
        # a count that was no tensor, as bitsandbytes keeps it
        is_count = value.ndim == 0 and value.dtype == torch.int64
        state.setdefault(int(number), {})[slot] = value.item() if is_count else value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
