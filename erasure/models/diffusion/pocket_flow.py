"""The built-in `pocket-flow`: a transformer of its own among pocket's other parts."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer


def pocket_flow(
    suite: Path, transformer: SD3Transformer2DModel, scheduler: FlowMatchEulerDiscreteScheduler
) -> StableDiffusion3Pipeline:
    """The transformer among the parts of the pocket in folder `suite`, in its precision.

    Both of its text encoders are pocket's text tower, and there is no T5.
    """
    vae = AutoencoderKL.from_pretrained(suite / "vae", dtype=transformer.dtype)
    vae.register_to_config(shift_factor=0.0)  # the pipeline adds it
    towers = [_text_encoder(suite, transformer.dtype) for _ in range(2)]
    tokenizers = [CLIPTokenizer.from_pretrained(suite / "tokenizer") for _ in range(2)]
    none: Any = None
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=scheduler, vae=vae,
        text_encoder=towers[0], tokenizer=tokenizers[0],
        text_encoder_2=towers[1], tokenizer_2=tokenizers[1],
        text_encoder_3=none, tokenizer_3=none,
    )  # fmt: skip


def open_pocket_flow(suite: Path, dtype: torch.dtype) -> StableDiffusion3Pipeline:
    """The one that lies in the folder `flow` of the suite."""
    folder = suite / "flow"
    transformer = SD3Transformer2DModel.from_pretrained(folder / "transformer", dtype=dtype)
    scheduler: Any = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    return pocket_flow(suite, transformer, scheduler)


def _text_encoder(suite: Path, dtype: torch.dtype) -> CLIPTextModelWithProjection:
    """Pocket's text tower, with its CLIP's projection."""
    config = CLIPTextConfig.from_pretrained(suite / "text_encoder")
    weights = load_file(suite / "text_encoder" / "model.safetensors")
    projection = load_file(suite / "clip" / "model.safetensors")["text_projection"]
    encoder: Any = CLIPTextModelWithProjection(config)
    encoder.load_state_dict({**weights, "text_projection.weight": projection.T})
    return encoder.to(dtype).eval().requires_grad_(False)
