"""What adapter files add to a model's weights, by diffusers', peft's or kohya's names."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from torch import Tensor

from erasure.errors import ModelError
from erasure.exports.writing.kohya import ALPHA, KOHYA_DOWN, KOHYA_UP
from erasure.files.records import read_record
from erasure.files.storage import read_tensors
from erasure.models.lora import DOWN, UP, deltas

Layout = Literal["diffusers", "peft", "kohya"]
PEFT = "base_model.model."  # how peft's names begin


@dataclass(frozen=True)
class Adapters:
    """What adapters add together, by weight; the weights as they name them."""

    layout: Layout
    changes: Mapping[str, Tensor]


def adapter_files(place: Path) -> list[Path]:
    """The place itself or a folder's files, if they hold adapters; none, if anything else does."""
    if place.is_file():
        files = [place] if place.suffix == ".safetensors" else []
    else:
        files = sorted([*place.glob("*.safetensors"), *place.glob("*/adapter_model.safetensors")])
    return files if files and all(_holds_adapters(file) for file in files) else []


def _holds_adapters(file: Path) -> bool:
    try:
        with safe_open(file, framework="pt") as reader:
            return any(name.endswith((DOWN, KOHYA_DOWN)) for name in reader.keys())  # noqa: SIM118
    except (SafetensorError, OSError):
        return False  # whoever reads it says what is wrong


def read_adapters(files: list[Path]) -> Adapters:
    """The sum of the files' adapters; ModelError for one of a kind that is not understood."""
    layouts, changes = set[Layout](), dict[str, Tensor]()
    for file in files:
        layout, added = _read(file)
        layouts.add(layout)
        for name, change in added.items():
            changes[name] = changes[name] + change if name in changes else change
    if len(layouts) > 1:
        raise ModelError(
            f"{files[0].parent} holds adapters by {' and '.join(sorted(layouts))} names."
        )
    return Adapters(layouts.pop(), changes)


def _read(file: Path) -> tuple[Layout, dict[str, Tensor]]:
    tensors, metadata = read_tensors(file)
    if any(name.endswith(KOHYA_DOWN) for name in tensors):
        return "kohya", _of_kohya(tensors, file)
    odd = next((name for name in tensors if not name.endswith((DOWN, UP))), None)
    if odd is not None:
        raise ModelError(f"{file} holds more than plain LoRA ({odd}).")
    if all(name.startswith(PEFT) for name in tensors):
        config = file.with_name("adapter_config.json")
        told = read_record(config, dict[str, Any], error=ModelError)
        plain = {name.removeprefix(PEFT): tensor for name, tensor in tensors.items()}
        return "peft", deltas(plain, _scale(told, file))
    try:
        given = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except ValueError as error:
        raise ModelError(f"lora_adapter_metadata of {file} is no JSON: {error}.") from error
    added: dict[str, Tensor] = {}
    for part in dict.fromkeys(name.partition(".")[0] for name in tensors):
        start = f"{part}."
        told = {n.removeprefix(start): v for n, v in given.items() if n.startswith(start)}
        own = {name: tensor for name, tensor in tensors.items() if name.startswith(start)}
        added |= deltas(own, _scale(told, file))
    return "diffusers", added


def _scale(told: Mapping[str, Any], file: Path) -> float:
    """alpha / rank by peft's config; 1 where it says neither, as the libraries take it."""
    if told.get("alpha_pattern") or told.get("rank_pattern") or told.get("use_dora"):
        raise ModelError(f"{file} holds more than plain LoRA (its config has patterns, or DoRA).")
    alpha, rank = told.get("lora_alpha"), told.get("r")
    return alpha / rank if alpha and rank else 1.0


def _of_kohya(tensors: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    pairs: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(KOHYA_DOWN):
            pairs[name.removesuffix(KOHYA_DOWN) + DOWN] = tensor.float()
        elif name.endswith(KOHYA_UP):
            module = name.removesuffix(KOHYA_UP)
            rank = tensor.shape[1]
            alpha = float(tensors.get(module + ALPHA, rank))
            pairs[module + UP] = tensor.float() * (alpha / rank)
        elif not name.endswith(ALPHA):
            raise ModelError(f"{file} holds more than plain LoRA ({name}).")
    return deltas(pairs, 1.0)
