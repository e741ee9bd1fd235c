"""Write a model as a folder that plain diffusers opens."""

import shutil
from dataclasses import asdict
from pathlib import Path

import torch

from erasure.errors import ModelError
from erasure.exports.publishing import convert, rename_text_encoder, write_vocabulary
from erasure.files.storage import write_json
from erasure.models.diffusion.latent_diffusion import LatentDiffusion


def save_model(model: LatentDiffusion, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a diffusers folder, with what this toolkit knows of the model beside it.

    The model itself is brought to `dtype`, if one is given. Errors as of `checked`.
    """
    pipeline = model.pipeline
    for part in (model.backbone_name, "vae", *model.towers):
        convert(getattr(pipeline, part), dtype, f"{model.name}'s {part}")
    pipeline.save_pretrained(folder, safe_serialization=True)
    for tower in model.towers:
        rename_text_encoder(folder / tower)
    for tokenizer in model.tokenizers:
        write_vocabulary(getattr(pipeline, tokenizer), folder / tokenizer)
    if not any((folder / model.backbone_name).glob("*.safetensors")):
        raise ModelError(f"{folder} was written without weights of its {model.backbone_name}.")
    for name in ("concepts.json", "presets.json"):
        if model.folder and (model.folder / name).is_file():
            shutil.copy(model.folder / name, folder / name)
    if model.sampling:
        write_json(folder / "sampling.json", asdict(model.sampling))
