"""A stage of training on disk: weights, optimiser, carried tensors and the generator."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from erasure.optimisers import Stepper
from erasure.storage import read_tensors, write_tensors


def write_state(
    file: Path, facts: Mapping[str, str], weights: Mapping[str, nn.Parameter], optimiser: Stepper,
    carried: Mapping[str, Tensor], generator: torch.Generator,
) -> None:  # fmt: skip
    """Write everything that `read_state` needs; `facts` go along."""
    tensors = {f"weight.{name}": parameter for name, parameter in weights.items()}
    tensors |= {f"carried.{name}": value for name, value in carried.items()}
    for number, slots in optimiser.state_dict()["state"].items():
        tensors |= {
            f"optimiser.{number}.{slot}": torch.as_tensor(value)
            for slot, value in slots.items()
            if value is not None
        }
    write_tensors(file, {**tensors, "generator": generator.get_state()}, facts)


def read_state(
    file: Path, weights: Mapping[str, nn.Parameter], optimiser: Stepper,
    carried: Mapping[str, Tensor], generator: torch.Generator,
) -> dict[str, str]:  # fmt: skip
    """Put a state back in place; its facts."""
    tensors, facts = read_tensors(file)
    with torch.no_grad():
        for name, parameter in weights.items():
            parameter.copy_(tensors[f"weight.{name}"])
        for name, value in carried.items():
            value.copy_(tensors[f"carried.{name}"])
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimiser":
            number, _, slot = rest.partition(".")
            # a count that was no tensor, as bitsandbytes keeps it
            is_count = value.ndim == 0 and value.dtype == torch.int64
            state.setdefault(int(number), {})[slot] = value.item() if is_count else value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    generator.set_state(tensors["generator"])
    return facts
