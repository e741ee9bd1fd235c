"""What a run finds of itself on disk: a stage's state, its log, and whether it is the same run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from erasure.errors import RunError
from erasure.optimisers import Stepper
from erasure.storage import atomic, read_lines, read_tensors, write_tensors


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


def shorten_log(file: Path, stage: str, step: int) -> None:
    """Drop the lines of steps that will be done again, and a last line that was cut off."""
    kept = [entry for entry in read_lines(file) if entry["stage"] != stage or entry["step"] < step]
    with atomic(file) as temporary:
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))


def refuse_other(folder: Path, key: str, old: object, new: object) -> None:
    """RunError, naming what differs, if the folder's record is not this run's."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            refuse_other(folder, f"{key}.{name}", old.get(name), new.get(name))
    elif old != new:
        raise RunError(
            f"{folder} holds a different run: its {key} is {_short(old)}, "
            f"this one's is {_short(new)}."
        )


def _short(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return ", ".join(str(item.get("name", item)) for item in value)
    return repr(value)
