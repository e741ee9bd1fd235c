"""A folder that plain diffusers opens."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from erasure.exports.forms import HERE, WholeModel, code
from erasure.exports.writing.publishing import hub_id
from erasure.exports.writing.saving import save_model
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.models.diffusion.stable_diffusion_3 import StableDiffusion3
from erasure.registry import EXPORTS


@EXPORTS.register
class Diffusers(WholeModel):
    """The whole pipeline."""

    def save(
        self, model: LatentDiffusion, folder: Path, dtype: torch.dtype, *, title: str, about: str
    ) -> None:
        save_model(model, folder, dtype)

    def opening(self, model: LatentDiffusion, title: str) -> list[str]:
        kind = type(model.pipeline).__name__
        without = ", safety_checker=None" if isinstance(model, StableDiffusion) else ""
        if isinstance(model, StableDiffusion3) and model.pipeline.text_encoder_3 is None:
            without = ", text_encoder_3=None, tokenizer_3=None"
        text = f"from diffusers import {kind}\n\n"
        text += f'pipeline = {kind}.from_pretrained("{HERE}"{without})'
        if model.sampling:
            side = model.resolution
            sized = (
                "" if "sample_size" in model.backbone.config else f"height={side}, width={side}, "
            )
            text += (
                f'\npipeline("...", {sized}num_inference_steps={model.sampling.steps}, '
                f"guidance_scale={model.sampling.guidance})  # it draws in so many calls"
            )
        missing = "The base's safety checker is not in this folder; take it from the base."
        return [*([missing, ""] if _had_checker(model) else []), *code(text)]


def _had_checker(model: LatentDiffusion) -> bool:
    """Whether the base's model_index.json names a safety checker."""
    source = str(model.folder) if model.folder else hub_id(model.name)
    if source is None:
        return False
    revision = None if model.folder else model.name.partition("@")[2] or None
    try:  # it was opened just now, so a Hub's is on this disk
        index: Any = DiffusionPipeline.load_config(source, revision=revision, local_files_only=True)
    except (OSError, ValueError):
        return False
    checker = index.get("safety_checker")
    return isinstance(checker, list | tuple) and any(word is not None for word in checker)
