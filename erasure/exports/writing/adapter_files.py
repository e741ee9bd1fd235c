"""Adapters as files that diffusers' load_lora_weights and peft open, and any reader of theirs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from erasure.edit import Edit
from erasure.exports.writing.kohya import write_kohya
from erasure.exports.writing.publishing import checked
from erasure.files.naming import LONGEST, slug
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.lora import UP


def file_names(edit: Edit) -> dict[str, str]:
    """The file or folder of each request's adapter, after what it takes away.

    No two are the same in capitals or small letters.
    """
    stems = _stems(edit.requests)
    return stems if edit.is_of_classifier else {r: f"{s}.safetensors" for r, s in stems.items()}


def _stems(requests: Mapping[str, Sequence[str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    taken = {"readme.md"}  # the card's
    for request, names in requests.items():
        joined = "-".join(slug(name) for name in names)
        plain = joined if 0 < len(joined.encode()) <= LONGEST else slug(joined)
        stem, number = plain, 2
        while stem.casefold() in taken:
            stem, number = f"{plain}-{number}", number + 1
        taken.add(stem.casefold())
        found[request] = stem
    return found


def write_adapters(
    edit: Edit, folder: Path, dtype: torch.dtype, kohya: LatentDiffusion | None = None
) -> None:
    """One file (or peft folder, of a classifier) per request; by kohya's names of a pipeline.

    The strength alpha / rank is multiplied into B, and the files say alpha = rank: readers that
    know nothing of alpha, and those that take it from the metadata, both add what was trained.
    """
    for request, name in file_names(edit).items():
        tensors = edit.adapter(request)
        strong = {n: t * edit.scale if n.endswith(UP) else t for n, t in tensors.items()}
        matrices, rank = checked(strong, dtype, name), int(edit.settings["rank"])  # type: ignore[call-overload]
        if kohya is not None:
            write_kohya(kohya, matrices, rank, folder / name)
        elif edit.is_of_classifier:
            _write_peft(matrices, rank, folder / name)
        else:
            _write_diffusers(matrices, rank, folder / name)


def _write_diffusers(tensors: dict[str, Tensor], rank: int, file: Path) -> None:
    """By the names that `load_lora_weights` reads, rank and alpha in the metadata."""
    part = next(iter(tensors)).partition(".")[0]  # unet or transformer
    targets = sorted({name.split(".lora_")[0].removeprefix(f"{part}.") for name in tensors})
    config = {"r": rank, "lora_alpha": rank, "target_modules": targets}
    known = json.dumps({f"{part}.{key}": value for key, value in config.items()})
    save_file(tensors, file, {"format": "pt", "lora_adapter_metadata": known})


def _write_peft(tensors: dict[str, Tensor], rank: int, folder: Path) -> None:
    """A folder that peft's PeftModel.from_pretrained opens."""
    targets = sorted({name.split(".lora_")[0] for name in tensors})
    LoraConfig(r=rank, lora_alpha=rank, target_modules=targets).save_pretrained(str(folder))
    plain = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
    save_file(plain, folder / "adapter_model.safetensors", {"format": "pt"})
