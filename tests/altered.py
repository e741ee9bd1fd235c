"""Copies of model folders in which one thing is not as it should be."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

CONFIGS = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to / "altered", dirs_exist_ok=True))


def configured(folder: Path, to: Path, part: str, **changes: Any) -> Path:
    """A copy whose part's config says something else; None as `...` takes an entry out."""
    copy = copied(folder, to)
    file = copy / part / CONFIGS.get(part, "config.json")
    record = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in record.items() if value is not ...}))
    return copy


def weighted(
    folder: Path, to: Path, part: str, change: Callable[[dict[str, Tensor]], object]
) -> Path:
    """A copy whose part's tensors, by name, went through `change`."""
    copy = copied(folder, to)
    file = next((copy / part).glob("*.safetensors"))
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})
    return copy


def one_of(tensors: dict[str, Tensor], ending: str) -> str:
    return next(name for name in tensors if name.endswith(ending))
