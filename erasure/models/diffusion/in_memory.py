"""A user's own pipeline object: what it must be, and a copy of it that may be edited."""

import copy
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from erasure.errors import ModelError
from erasure.models.diffusion.components import classes_of

IN_MEMORY = "a pipeline in memory"  # the name of a model that no folder or Hub id holds
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def check_networks(pipeline: Any, parts: Sequence[str]) -> dict[str, nn.Module]:
    """The pipeline's networks of these names, those that it has.

    ModelError for what is not the network that its class's file would give: of another class, with
    adapters in it, quantised, or with hooks that move or cast its weights.
    """
    found: dict[str, nn.Module] = {}
    for part in parts:
        network = getattr(pipeline, part, None)
        if network is None:
            continue
        kind = type(network).__name__
        known = classes_of(part, type(pipeline).__name__)
        if kind not in known:
            raise ModelError(f"{part} of the pipeline must be {' or '.join(known)}; got {kind}.")
        _refuse_adapters(part, network)
        _refuse_hooks(part, network)
        _refuse_quantised(part, network)
        found[part] = network
    return found


def _refuse_adapters(part: str, network: nn.Module) -> None:
    if any(isinstance(module, BaseTunerLayer) for module in network.modules()):
        raise ModelError(
            f"{part} of the pipeline holds adapters (LoRA), which are no weights of its own; call "
            "its unload_lora_weights(), after fuse_lora() if they are to count as the model's."
        )


def _refuse_hooks(part: str, network: nn.Module) -> None:
    for module in network.modules():
        if hasattr(module, "_hf_hook") or hasattr(module, "_diffusers_hook"):
            raise ModelError(
                f"{part} of the pipeline has hooks that move or cast its weights; open it without "
                "offloading, device_map and layerwise casting."
            )


def _refuse_quantised(part: str, network: nn.Module) -> None:
    for name, weight in network.named_parameters():
        # a quantised tensor may be a subclass that gives itself out for a float
        is_plain = type(weight.data) is torch.Tensor and weight.dtype in FLOATS
        if not is_plain or weight.is_meta:
            what = "meta" if weight.is_meta else str(weight.dtype).removeprefix("torch.")
            raise ModelError(
                f"{part} of the pipeline must have whole weights in float32, float16 or bfloat16; "
                f"{name} is {type(weight.data).__name__} of {what}: open it without quantisation."
            )


def copied(
    pipeline: Any, networks: Collection[str], dtype: torch.dtype, device: torch.device | str
) -> Any:
    """A pipeline of the same kind with copies of these networks and of the scheduler.

    It has no other network: a safety checker stays the user's alone.
    """
    made = copy.copy(pipeline)
    for name, part in pipeline.components.items():
        if name in networks:
            setattr(made, name, copy.deepcopy(part).to(device, dtype))
        elif isinstance(part, nn.Module):
            setattr(made, name, None)
    made.scheduler = copy.deepcopy(pipeline.scheduler)
    return made


def opened_from(pipeline: Any) -> tuple[str, str] | None:
    """(the folder on this disk, the lasting name) of what a pipeline says it was opened from.

    A Hub id's folder is its snapshot in the cache here, and its name has the commit.
    """
    said = str(pipeline.config.get("_name_or_path") or "")
    if not said:
        return None
    if Path(said).is_dir():
        return str(Path(said).resolve()), str(Path(said).resolve())
    try:
        folder = snapshot_download(said, local_files_only=True)
    except (OSError, ValueError):  # no id, or not in the cache
        return None
    return folder, f"{said}@{Path(folder).name}"
