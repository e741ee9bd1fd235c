"""The models that bench.py measures: the built-in one, and random weights in published shapes.

Cost does not depend on values, so nothing is downloaded: bench_shapes.json has the configs of the
published repositories, and the built-in tokenizer stands for theirs.
"""

import importlib
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import diffusers
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from erasure.errors import ModelError, SettingError
from erasure.models.built_in import POCKET
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.stable_diffusion import StableDiffusion

SHAPES: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("bench_shapes.json").read_text()
)
FAMILIES = ("pocket", *SHAPES)
VAE_SCALE = 8


def build(family: str, device: str, resolution: int | None = None) -> StableDiffusion:
    """The family's model in float32 on the device; `resolution` is the side of its images.

    ModelError for a family that this version of the toolkit has no class for.
    """
    check_resolution(family, resolution)
    if family == "pocket":
        return load_model("pocket", device=device)
    shapes = deepcopy(SHAPES[family])
    if resolution is not None:
        shapes["unet"]["sample_size"] = resolution // VAE_SCALE
    kind, pipeline = _class_of(family)
    return kind(pipeline(**components(shapes, device)), name=family)


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
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    schedule = dict(shapes["scheduler"])
    parts: dict[str, Any] = {
        "scheduler": getattr(diffusers, schedule.pop("class"))(**schedule),
        "tokenizer": tokenizer,
    }
    with torch.device(device):
        parts |= {
            "unet": diffusers.UNet2DConditionModel(**shapes["unet"]),
            "vae": diffusers.AutoencoderKL(**shapes["vae"]),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**shapes["text_encoder"], **ends)),
        }
        if "text_encoder_2" in shapes:
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
