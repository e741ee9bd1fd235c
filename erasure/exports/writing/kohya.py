"""Adapters by the names of kohya's sd-scripts, which A1111, Forge and ComfyUI read as well.

A module's name has "_" for "." and a beginning that tells its network. The UNet's are those of
diffusers for Stable Diffusion 1.x and 2.x, and of the original release for XL.
https://github.com/kohya-ss/sd-scripts
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from erasure.errors import EditError
from erasure.exports.writing.original_names import clip_names, unet_names
from erasure.exports.writing.single_file import layout_of
from erasure.files.storage import write_tensors
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.lora import DOWN, UP

BASES = {"1": "sd_v1", "2": "sd_v2", "xl": "sdxl_base_v1-0"}
ALPHA = ".alpha"
KOHYA_DOWN, KOHYA_UP = ".lora_down.weight", ".lora_up.weight"


def kohya_names(model: LatentDiffusion, modules: Iterable[str]) -> dict[str, str]:
    """kohya's names of the model's modules; SettingError for another than SD 1.x, 2.x and XL."""
    is_xl = layout_of(model) == "xl"
    towers = ("lora_te1", "lora_te2") if is_xl else ("lora_te",)
    beginnings = {"unet": "lora_unet", **dict(zip(model.towers, towers, strict=True))}
    parts: dict[str, list[str]] = {}
    for module in modules:
        part, _, rest = module.partition(".")
        parts.setdefault(part, []).append(rest)
    found = {}
    for part, own in parts.items():
        named = {name: name for name in own}
        if part != "unet":
            named = clip_names(own)
        elif is_xl:
            named = unet_names(own, model.pipeline.unet.config)
        for name, theirs in named.items():
            found[f"{part}.{name}"] = f"{beginnings[part]}_{theirs.replace('.', '_')}"
    return found


def write_kohya(
    model: LatentDiffusion, tensors: Mapping[str, Tensor], rank: int, file: Path
) -> None:
    """Write pairs of matrices (MODULE.lora_A.weight and lora_B) of full strength, alpha = rank."""
    layout = layout_of(model)
    modules = [name.removesuffix(DOWN) for name in tensors if name.endswith(DOWN)]
    found: dict[str, Tensor] = {}
    for module, name in kohya_names(model, modules).items():
        if f"{name}{ALPHA}" in found:
            raise EditError(f"{module} and another module are both {name} in kohya's layout.")
        found[name + KOHYA_DOWN] = tensors[module + DOWN]
        found[name + KOHYA_UP] = tensors[module + UP]
        # in full precision: bfloat16 does not hold every rank above 256
        found[name + ALPHA] = torch.tensor(float(rank))
    is_v = model.pipeline.scheduler.config.get("prediction_type") == "v_prediction"
    base = BASES[layout] + ("_v" if is_v and layout != "xl" else "")
    told = {
        "ss_network_module": "networks.lora", "ss_network_dim": str(rank),
        "ss_network_alpha": f"{float(rank)}", "ss_base_model_version": base,
        "ss_v2": str(layout == "2"),
    }  # fmt: skip
    write_tensors(file, found, told)
