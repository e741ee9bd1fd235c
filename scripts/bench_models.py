"""The models that bench.py measures: the built-in one, and random weights in published shapes.

Cost does not depend on values, so nothing is downloaded: bench_shapes.json has the configs of the
published repositories, and the built-in tokenizer stands for theirs. FLUX's weights are bfloat16.
"""

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

from erasure.errors import ModelError, SettingError
from erasure.models.built_in import POCKET
from erasure.models.diffusion.flux import Flux
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.stable_diffusion import StableDiffusion

SHAPES: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("bench_shapes.json").read_text()
)
FAMILIES = ("pocket", *SHAPES)
VAE_SCALE = 8
# too large for a second network in float32 beside them, and what of the toolkit is measured there
LARGE = {"flux": ("esd", "gs-lora")}


def build(family: str, device: str, resolution: int | None = None) -> LatentDiffusion:
    """The family's model on the device; `resolution` is the side of its images.

    ModelError for a family that this version of the toolkit has no class for.
    """
    check_resolution(family, resolution)
    if family == "pocket":
        return load_model("pocket", device=device)
    if family in LARGE:
        with _default_dtype(torch.bfloat16):
            parts = components(SHAPES[family], device)
        return Flux(diffusers.FluxPipeline(**parts), name=family, resolution=resolution)
    shapes = deepcopy(SHAPES[family])
    if resolution is not None:
        shapes["unet"]["sample_size"] = resolution // VAE_SCALE
    kind, pipeline = _class_of(family)
    return kind(pipeline(**components(shapes, device)), name=family)


def measured(family: str, method: str) -> bool:
    """Whether there is a row of this method on this family."""
    return method in LARGE.get(family, (method,))


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def check_resolution(family: str, resolution: int | None) -> None:
    """SettingError for a side that the family's UNet cannot halve as often as it does."""
    if resolution is None or (family == "pocket" and resolution == 64):
        return
    if family == "pocket":
        raise SettingError(f"resolution must be 64 for pocket; got {resolution}.")
    if resolution < 64 or resolution % 64:
        raise SettingError(f"resolution must be a multiple of 64; got {resolution}.")


def components(shapes: dict[str, Any], device: str) -> dict[str, Any]:
    """A pipeline's parts with random weights."""
    tokenizer = CLIPTokenizer.from_pretrained(POCKET / "tokenizer", model_max_length=77)
    # entries that no text has, for a tokenizer must be as large as its encoder's table
    lacking = shapes["text_encoder"]["vocab_size"] - len(tokenizer)
    tokenizer.add_tokens([f"<unused {number}>" for number in range(lacking)])
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    schedule = dict(shapes["scheduler"])
    parts: dict[str, Any] = {
        "scheduler": getattr(diffusers, schedule.pop("class"))(**schedule),
        "tokenizer": tokenizer,
    }
    with torch.device(device):
        if "unet" in shapes:
            parts["unet"] = diffusers.UNet2DConditionModel(**shapes["unet"])
        else:
            parts["transformer"] = diffusers.FluxTransformer2DModel(**shapes["transformer"])
        parts |= {
            "vae": diffusers.AutoencoderKL(**shapes["vae"]),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**shapes["text_encoder"], **ends)),
        }
        if "transformer" in shapes:
            parts["text_encoder_2"] = T5EncoderModel(T5Config(**shapes["text_encoder_2"]))
        elif "text_encoder_2" in shapes:
            second = CLIPTextConfig(**shapes["text_encoder_2"], **ends)
            parts["text_encoder_2"] = CLIPTextModelWithProjection(second)
    if "text_encoder_2" in shapes:
        parts["tokenizer_2"] = tokenizer
    else:
        parts |= {"safety_checker": None, "feature_extractor": None}
        parts["requires_safety_checker"] = False
    return parts


def _class_of(family: str) -> tuple[type[StableDiffusion], Any]:
    if "text_encoder_2" not in SHAPES[family]:
        return StableDiffusion, diffusers.StableDiffusionPipeline
    try:
        module = importlib.import_module("erasure.models.diffusion.stable_diffusion_xl")
    except ModuleNotFoundError:
        raise ModelError(f"this version of the toolkit has no model class for {family}.") from None
    return module.StableDiffusionXL, diffusers.StableDiffusionXLPipeline
