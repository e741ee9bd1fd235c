"""Write a pipeline as one .safetensors in the original releases' layout, its configs beside it.

The file's metadata are those of Stability AI's model specification 1.0.0,
https://github.com/Stability-AI/ModelSpec; a model that predicts v, or whose schedule ends without
signal, is marked by empty tensors `v_pred` and `ztsnr` besides, which tools look for.
"""

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from erasure.errors import SettingError
from erasure.exports.writing.original_names import (
    clip_names,
    open_clip_tensors,
    unet_names,
    vae_tensors,
)
from erasure.exports.writing.publishing import checked, rename_text_encoder, write_vocabulary
from erasure.files.storage import write_tensors
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.models.diffusion.stable_diffusion_xl import StableDiffusionXL

LOGIT_SCALE = math.log(1 / 0.07)  # open_clip's own start; the files hold it, and nothing reads it
CODE = {
    "1": "https://github.com/CompVis/stable-diffusion",
    "2": "https://github.com/Stability-AI/stablediffusion",
    "xl": "https://github.com/Stability-AI/generative-models",
}
# what tools take for granted of each layout: UNet, text tower, autoencoder and schedule
PUBLISHED: dict[str, dict[str, object]] = {
    "1": {
        "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
        "transformer_layers_per_block": 1, "cross_attention_dim": 768, "attention_head_dim": 8,
        "num_hidden_layers": 12, "hidden_act": "quick_gelu", "scaling_factor": 0.18215,
    },
    "2": {
        "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
        "transformer_layers_per_block": 1, "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20], "num_hidden_layers": 23, "hidden_act": "gelu",
        "scaling_factor": 0.18215,
    },
    "xl": {
        "block_out_channels": [320, 640, 1280], "layers_per_block": 2,
        "transformer_layers_per_block": [1, 2, 10], "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20], "num_hidden_layers": 12, "hidden_act": "quick_gelu",
        "scaling_factor": 0.13025,
    },
}  # fmt: skip
SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012}


def layout_of(model: LatentDiffusion) -> str:
    """Whose names the weights have: "1", "2" or "xl".

    What tells the first two apart is the text tower: readers take the activation of OpenAI's
    (quick_gelu) for the one, of open_clip's (gelu) for the other. SettingError for other models.
    """
    if isinstance(model, StableDiffusionXL):
        return "xl"
    if isinstance(model, StableDiffusion):
        return "2" if model.pipeline.text_encoder.config.hidden_act == "gelu" else "1"
    raise SettingError(
        "this layout is of Stable Diffusion 1.x, 2.x and XL; "
        f"{model.name} is a {type(model.pipeline).__name__}. Take diffusers."
    )


def _refuse(model: LatentDiffusion) -> None:
    """SettingError for what a file of a known layout cannot hold."""
    if model.sampling:
        raise SettingError(
            f"single-file cannot say how {model.name} is drawn ({model.sampling.steps} step by "
            f"{model.sampling.scheduler}), and tools would draw it otherwise. Take diffusers."
        )
    if not isinstance(model.pipeline.vae, AutoencoderKL):
        raise SettingError(
            f"single-file holds an AutoencoderKL; {model.name} has an "
            f"{type(model.pipeline.vae).__name__}. Take diffusers."
        )


def save_single_file(
    model: LatentDiffusion, file: Path, dtype: torch.dtype, *, title: str, about: str
) -> None:
    """Write the file, and into its folder the configs with which diffusers opens it offline.

    `title` and `about` (a description) go into its metadata. SettingError for a model that the
    layout does not hold, ModelError for weights that it has no name for; others as of `checked`.
    """
    layout = layout_of(model)
    _refuse(model)
    tensors = checked(original_tensors(model, layout), dtype, model.name)
    _save_configs(model, file.parent)
    write_tensors(file, tensors | _marks(model), _metadata(model, layout, title, about))


def is_published_size(model: LatentDiffusion) -> bool:
    """Whether a tool that takes sizes and schedule from the layout alone opens the file rightly."""
    parts = model.pipeline
    told = {**parts.unet.config, **parts.scheduler.config}
    for name in ("num_hidden_layers", "hidden_act"):
        told[name] = getattr(parts.text_encoder.config, name)
    told["scaling_factor"] = parts.vae.config.scaling_factor
    wanted = {**PUBLISHED[layout_of(model)], **SCHEDULE, "beta_schedule": "scaled_linear"}
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in told.items()}
    return all(plain.get(name) == value for name, value in wanted.items())


def original_tensors(model: LatentDiffusion, layout: str) -> dict[str, Tensor]:
    """All that the layout's file holds, by the release's names, on the CPU.

    ModelError for weights that it has no name for.
    """
    parts = model.pipeline
    unet = _state(parts.unet)
    names = unet_names(unet, parts.unet.config)
    found = {f"model.diffusion_model.{names[name]}": tensor for name, tensor in unet.items()}
    vae = vae_tensors(_state(parts.vae), parts.vae.config)
    found |= {f"first_stage_model.{name}": tensor for name, tensor in vae.items()}
    first = _state(parts.text_encoder)
    if layout == "2":
        whole = _with_last_layer(open_clip_tensors(first))
        return found | _below("cond_stage_model.model", whole)
    place = "conditioner.embedders.0" if layout == "xl" else "cond_stage_model"
    named = {name: first[own] for own, name in clip_names(first).items()}
    positions = torch.arange(parts.text_encoder.config.max_position_embeddings)[None]
    named["text_model.embeddings.position_ids"] = positions
    found |= _below(f"{place}.transformer", named)
    if layout == "xl":
        second = open_clip_tensors(_state(parts.text_encoder_2))
        second["logit_scale"] = torch.tensor(LOGIT_SCALE)
        found |= _below("conditioner.embedders.1.model", second)
    return found


def _state(module: Any) -> dict[str, Tensor]:
    return {
        name: tensor.detach().cpu()
        for name, tensor in module.state_dict().items()
        if not name.endswith("position_ids")  # of older releases of transformers
    }


def _below(place: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{place}.{name}": tensor for name, tensor in tensors.items()}


def _with_last_layer(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """SD 2.x's tower as its releases hold it: one layer more than is read, and a projection.

    Diffusers folders leave these out. The last layer but one stands in for the last, and the
    projection changes nothing; no reader of the layout asks either.
    """
    layers = [int(name.split(".")[2]) for name in tensors if name.startswith("transformer.")]
    last, found = max(layers), dict(tensors)
    for name, tensor in tensors.items():
        if name.startswith(f"transformer.resblocks.{last}."):
            found[name.replace(f".{last}.", f".{last + 1}.", 1)] = tensor.clone()
    width = tensors["token_embedding.weight"].shape[1]
    found.setdefault("text_projection", torch.eye(width))
    found["logit_scale"] = torch.tensor(LOGIT_SCALE)
    return found


def _marks(model: LatentDiffusion) -> dict[str, Tensor]:
    config = model.pipeline.scheduler.config
    said = {
        "v_pred": config.get("prediction_type") == "v_prediction",
        "ztsnr": bool(config.get("rescale_betas_zero_snr")),
    }
    return {name: torch.zeros(0) for name, is_so in said.items() if is_so}


def _metadata(model: LatentDiffusion, layout: str, title: str, about: str) -> dict[str, str]:
    is_v = model.pipeline.scheduler.config.get("prediction_type") == "v_prediction"
    architecture = {
        "1": "stable-diffusion-v1",
        "2": "stable-diffusion-v2-768-v" if is_v else "stable-diffusion-v2-512",
        "xl": "stable-diffusion-xl-v1-base",
    }[layout]
    side = model.resolution
    told = {
        "sai_model_spec": "1.0.0", "architecture": architecture, "implementation": CODE[layout],
        "title": title, "description": about, "resolution": f"{side}x{side}",
        "prediction_type": "v" if is_v else "epsilon",
    }  # fmt: skip
    return {f"modelspec.{name}": text for name, text in told.items()}


def _save_configs(model: LatentDiffusion, folder: Path) -> None:
    """A diffusers folder without weights."""
    pipeline = model.pipeline
    pipeline.save_config(folder)
    for part in ("unet", "vae"):
        getattr(pipeline, part).save_config(folder / part)
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    for tower in model.towers:
        getattr(pipeline, tower).config.save_pretrained(folder / tower)
        rename_text_encoder(folder / tower)
    for tokenizer in model.tokenizers:
        getattr(pipeline, tokenizer).save_pretrained(folder / tokenizer)
        write_vocabulary(getattr(pipeline, tokenizer), folder / tokenizer)
