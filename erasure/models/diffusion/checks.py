"""What a pipeline must be to be asked rightly: parts, inputs, text, noise schedule, finite weights.

What is not supported would be trained and drawn in silence as something else.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from erasure.errors import ModelError

PROBE = "a photo of a small house by the sea, drawn with 2 pencils"
# inputs of a UNet that no prompt, timestep or latent gives, and who has them
EXTRA_INPUTS = {
    "time_cond_proj_dim": "a guidance embedding, as latent consistency models have",
    "class_embed_type": "a class embedding",
    "num_class_embeds": "a class embedding",
    "encoder_hid_dim": "a projection of other states than the text encoder's",
    "encoder_hid_dim_type": "a projection of other states than the text encoder's",
}

SHORTEST = 100  # timesteps of a schedule; methods walk 50


def check_pipeline(
    pipeline: Any, backbone: str, towers: Sequence[str], tokenizers: Sequence[str], name: str
) -> None:
    """ModelError, in one line, for what this toolkit would not ask as the pipeline itself does."""
    for part in (backbone, "vae", "scheduler", *towers, *tokenizers):
        if getattr(pipeline, part, None) is None:
            raise ModelError(f"{name} has no {part}; a whole pipeline is needed.")
    scale = pipeline.vae.config.get("scaling_factor")
    if not isinstance(scale, (int, float)) or isinstance(scale, bool) or not 0 < scale < math.inf:
        raise ModelError(f"scaling_factor of {name}'s vae must be above 0; got {scale!r}.")
    for tower, part in zip(towers, tokenizers, strict=True):
        encoder, tokenizer = getattr(pipeline, tower), getattr(pipeline, part)
        _check_tokenizer(part, tokenizer, encoder, name)
        pools = backbone == "transformer" or hasattr(encoder, "text_projection")
        _check_pooling(tower, encoder, tokenizer.eos_token_id, name, pools=pools)


def check_noise_prediction(pipeline: Any, towers: Sequence[str], name: str) -> None:
    """ModelError for a UNet or a noise schedule that would be asked wrongly."""
    _check_scheduler(pipeline.scheduler, name)
    _check_unet(pipeline, [getattr(pipeline, tower) for tower in towers], name)


def check_flow_matching(pipeline: Any, name: str, packed: int = 1) -> None:
    """ModelError for a transformer or a scheduler that would be asked wrongly.

    `packed` latents along each side are laid into the channels of one.
    """
    kind = type(pipeline.scheduler).__name__
    if not kind.startswith("FlowMatch") or pipeline.scheduler.config.get("invert_sigmas"):
        raise ModelError(
            f"the scheduler of {name} must be one of flow matching, as "
            f"FlowMatchEulerDiscreteScheduler, from noise to image; got {kind}."
        )
    config, latents = pipeline.transformer.config, pipeline.vae.config.latent_channels
    latents *= packed**2
    if config.in_channels != latents or (config.out_channels or latents) != latents:
        raise ModelError(
            f"in_channels and out_channels of the transformer of {name} must be {latents}, as its "
            f"autoencoder's latents give; got {config.in_channels} and {config.out_channels}."
        )


def _check_scheduler(scheduler: Any, name: str) -> None:
    kind, prediction = type(scheduler).__name__, scheduler.config.get("prediction_type", "epsilon")
    alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
    if alphas_cumprod is None:
        raise ModelError(
            f"the scheduler of {name} must have alphas_cumprod (as DDIMScheduler, PNDMScheduler, "
            f"EulerDiscreteScheduler and their like); {kind} has none."
        )
    if prediction not in ("epsilon", "v_prediction"):
        raise ModelError(
            f"{name} predicts {prediction!r}; only epsilon and v_prediction are supported."
        )
    alphas_cumprod = torch.as_tensor(alphas_cumprod)
    count = scheduler.config.get("num_train_timesteps", len(alphas_cumprod))
    if len(alphas_cumprod) != count or count < SHORTEST or alphas_cumprod[0] == alphas_cumprod[-1]:
        raise ModelError(
            f"the schedule of {name} must have its num_train_timesteps of levels, {SHORTEST} at "
            f"least, and fall; got {len(alphas_cumprod)} of {count}, from "
            f"{float(alphas_cumprod[0]):g} to {float(alphas_cumprod[-1]):g}."
        )
    is_falling = bool((alphas_cumprod.diff() <= 0).all())  # NaN is not
    if not (is_falling and alphas_cumprod[-1] >= 0 and alphas_cumprod[0] <= 1):
        raise ModelError(
            f"the alphas_cumprod of {name} must fall from 1 towards 0; its scheduler_config.json "
            f"gives {float(alphas_cumprod[0]):g} to {float(alphas_cumprod[-1]):g}."
        )
    has_no_signal = scheduler.config.get("rescale_betas_zero_snr") or alphas_cumprod.min() == 0
    if has_no_signal and prediction == "epsilon":
        raise ModelError(
            f"{name} cannot be sampled: its schedule ends without signal (rescale_betas_zero_snr) "
            "and it predicts epsilon. If it was trained on v, set prediction_type to v_prediction "
            "in its scheduler_config.json."
        )


def _check_unet(pipeline: Any, encoders: Sequence[Any], name: str) -> None:
    config, latents = pipeline.unet.config, pipeline.vae.config.latent_channels
    for field, meaning in EXTRA_INPUTS.items():
        if config.get(field) is not None:
            raise ModelError(
                f"the UNet of {name} takes {meaning} ({field} {config.get(field)}); "
                "that is not supported."
            )
    added, wanted = config.get("addition_embed_type"), "text_time" if len(encoders) > 1 else None
    if added != wanted:
        raise ModelError(
            f"addition_embed_type of the UNet of {name} must be {wanted} in a "
            f"{type(pipeline).__name__}; got {added}."
        )
    for field in ("in_channels", "out_channels"):
        if config.get(field) != latents:
            what = " (an inpainting model)" if config.get(field) == 9 else ""
            raise ModelError(
                f"{field} of the UNet of {name} must be {latents}, as its autoencoder's "
                f"latents; got {config.get(field)}{what}."
            )
    width = sum(encoder.config.hidden_size for encoder in encoders)
    attended = config.cross_attention_dim
    for asked in attended if isinstance(attended, (list, tuple)) else (attended,):
        if asked != width:
            raise ModelError(
                f"cross_attention_dim of the UNet of {name} must be {width}, as its text's; "
                f"got {asked}."
            )
    side = config.sample_size
    sides = tuple(side) if isinstance(side, (list, tuple)) else (side, side)
    if len(sides) != 2 or sides[0] != sides[1] or not isinstance(sides[0], int) or sides[0] < 1:
        raise ModelError(
            f"sample_size of the UNet of {name} must be the side of a square of latents "
            f"(64 for 512 pixels); got {json.dumps(side)}."
        )


def _check_tokenizer(part: str, tokenizer: Any, encoder: Any, name: str) -> None:
    """The tokenizer must be the encoder's, whole: absent files leave one that knows no word."""
    rows, count = encoder.get_input_embeddings().num_embeddings, len(tokenizer)
    remedy = f"are all its files (vocab.json and merges.txt, or tokenizer.json) in {part}/?"
    if not rows / 2 < count <= rows:
        raise ModelError(
            f"the {part} of {name} must fit the text encoder, which has {rows} tokens; it has "
            f"{count}: {remedy}"
        )
    window, start, end = tokenizer.model_max_length, tokenizer.bos_token_id, tokenizer.eos_token_id
    if not isinstance(window, int) or window <= 2:
        raise ModelError(f"model_max_length of the {part} of {name} must be above 2; got {window}.")
    whole = tokenizer(PROBE).input_ids
    read = whole[1:-1]
    if tokenizer.unk_token_id in read or max(read, default=rows) >= rows:
        raise ModelError(f"the {part} of {name} cannot read {PROBE!r}: {remedy}")
    if (whole[0], whole[-1]) != (start, end) or tokenizer.pad_token_id is None:
        raise ModelError(
            f"the {part} of {name} must put a start and an end token around a text, and have "
            f"one to pad with: {remedy}"
        )
    unmade = _unmade(tokenizer)
    if unmade:
        raise ModelError(
            f"the {part} of {name} knows {unmade[0]!r} and {len(unmade) - 1} more tokens that its "
            f"merges never make: {remedy}"
        )


def _check_pooling(tower: str, encoder: Any, end: int, name: str, *, pools: bool) -> None:
    """A CLIP pools where its config says that a text ends; 2 is the old way, by the highest token.

    By a token that no text has it would pool the first, which tells all texts alike.
    """
    given = encoder.config.to_dict().get("eos_token_id")
    is_number = isinstance(given, int) and not isinstance(given, bool)
    is_clip = str(encoder.config.model_type).startswith("clip")
    if is_clip and (not is_number or (pools and given not in (2, end))):
        raise ModelError(
            f"eos_token_id of the {tower} of {name} must be its tokenizer's, {end}, or 2; "
            f"got {given!r}."
        )


def _unmade(tokenizer: Any) -> list[str]:
    """Entries that byte-pair encoding cannot reach, where that is more than one in a hundred."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = json.loads(backend.to_str())["model"] if backend is not None else {}
    if model.get("type") != "BPE":
        return []
    end, special = model.get("end_of_word_suffix") or "", set(tokenizer.get_added_vocab())
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    made = {"".join(pair) for pair in pairs}
    unmade = [
        entry
        for entry in model["vocab"]
        if len(entry.removesuffix(end)) > 1 and entry not in made and entry not in special
    ]
    return unmade if len(unmade) > 0.01 * len(model["vocab"]) else []


def check_finite(networks: Mapping[str, nn.Module], name: str) -> None:
    """ModelError for a weight that holds NaN or infinity."""
    tensors = {
        f"{part}.{key}": tensor
        for part, network in networks.items()
        for key, tensor in network.named_parameters()
    }
    # a value that is not finite makes the sum so; a sum may be so without one
    sums = torch.stack([tensor.detach().sum(dtype=torch.float32) for tensor in tensors.values()])
    if bool(sums.isfinite().all()):
        return
    for key, tensor in tensors.items():
        if not bool(tensor.detach().isfinite().all()):
            raise ModelError(
                f"{key} of {name} holds values that are not finite; the file is damaged, "
                "or was converted to too low a precision."
            )
