"""What a run finds of its work on disk: a stage's state and its log."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from erasure.errors import DivergedError, RunError
from erasure.files.storage import atomic, read_lines, read_tensors, write_tensors
from erasure.training.optimisers import Stepper


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
    if facts.get("diverged"):
        raise DivergedError(
            f"this run diverged at step {facts['step']} and cannot go on; lower learning_rate and "
            "use another --out."
        )
    _refuse_misfits(file, tensors, weights, carried)
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


def seconds_of(file: Path) -> float:
    """How long the run had worked when it wrote this state."""
    with safe_open(file, framework="pt") as opened:
        return float((opened.metadata() or {}).get("seconds", 0))


def _refuse_misfits(
    file: Path, tensors: Mapping[str, Tensor], weights: Mapping[str, nn.Parameter],
    carried: Mapping[str, Tensor],
) -> None:  # fmt: skip
    """RunError for a state that lacks something or holds it in another shape."""
    wanted = {f"weight.{name}": parameter.shape for name, parameter in weights.items()}
    wanted |= {f"carried.{name}": value.shape for name, value in carried.items()}
    wanted["generator"] = torch.Generator().get_state().shape
    for name, shape in wanted.items():
        if name not in tensors or tensors[name].shape != shape:
            raise RunError(f"{file} is no state of this run ({name}); remove it to start again.")


def shorten_log(file: Path, stage: str, step: int) -> None:
    """Drop the lines of steps that will be done again, and those that a kill has cut off.

    A step's losses are logged under the number of steps before it, a probe's accuracies under the
    number of steps done.
    """

    def is_done(entry: Mapping[str, Any]) -> bool:
        if entry.get("stage") != stage:
            return True
        is_probe = any(key.startswith("Acc_") for key in entry)
        return entry.get("step", 0) < step + is_probe * (step > 0)

    entries = read_lines(file)
    kept = [entry for entry in entries if is_done(entry)]
    if file.is_file():
        with atomic(file) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
