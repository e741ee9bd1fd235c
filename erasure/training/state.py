"""What a run finds of its work on disk: a stage's state and its log."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from erasure.errors import DivergedError, RunError
from erasure.files.storage import atomic, read_lines, read_tensors


def read_state(
    file: Path, wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A state's tensors and facts. RunError if it lacks one of `wanted` or holds another shape."""
    tensors, facts = read_tensors(file)
    if facts.get("diverged"):
        raise DivergedError(
            f"this run diverged at step {facts['step']} and cannot go on; lower learning_rate and "
            "use another --out."
        )
    for name, like in wanted.items():
        if name not in tensors or tensors[name].shape != like.shape:
            raise RunError(f"{file} is no state of this run ({name}); remove it to start again.")
    return tensors, facts


def seconds_of(file: Path) -> float:
    """How long the run had worked when it wrote this state."""
    with safe_open(file, framework="pt") as opened:
        return float((opened.metadata() or {}).get("seconds", 0))


def shorten_log(file: Path, stage: str, step: int) -> None:
    """Drop the lines of steps that will be done again, and those that a kill has cut off.

    A step's losses are logged under the number of steps before it, a probe's accuracies under the
    number of steps done.
    """

    def is_done(entry: Mapping[str, Any]) -> bool:
        if entry.get("stage") != stage:
            return True
        is_probe = any(key.startswith("Acc_") for key in entry)
        return entry.get("step", 0) < step + is_probe

    entries = read_lines(file)
    kept = [entry for entry in entries if is_done(entry)]
    if file.is_file():
        with atomic(file) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
