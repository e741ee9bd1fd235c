"""Open one .safetensors file in the layout of the original releases, with configs beside it.

diffusers converts the names. What it did not find, and what it did not use, is found here by the
tensors' values, whatever their names became.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from erasure.errors import ModelError
from erasure.models.diffusion.components import first_line

# how the names of each part begin in a file
BEGINNINGS: dict[str, tuple[str, ...]] = {
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
# what a checkpoint may hold beside the weights that are asked
UNUSED = re.compile(
    r"position_ids$|logit_scale$|text_projection(?:\.weight)?$|\.loss\.|model_ema\."
)
RESBLOCK = re.compile(r"\.resblocks\.(\d+)\.")
COMPARED = 4096  # leading values of a tensor: enough to tell trained ones apart
NEEDED = (
    "a diffusers folder of the same family, with model_index.json, the config.json of unet, vae "
    "and text encoder, the tokenizer's files and the scheduler's config; its weights are not read"
)


def open_single_file(
    file: Path, config: Path, pipeline: Any, towers: tuple[str, ...], dtype: torch.dtype,
    without: dict[str, Any],
) -> Any:  # fmt: skip
    """The pipeline of a file and a folder of configs.

    ModelError for a part or tensor that the file lacks, one that is not used, and for a file that
    says of itself what the configs deny.
    """
    tensors, metadata = _headings(file)
    for part in ("unet", "vae", *towers):
        if not any(key.startswith(BEGINNINGS[part]) for key in tensors):
            raise ModelError(
                f"{file} holds no {part} ({BEGINNINGS[part][0]}…); a whole checkpoint is needed."
            )
    try:
        opened: Any = pipeline.from_single_file(
            str(file), config=str(config), dtype=dtype, local_files_only=True, **without
        )
    except Exception as error:  # a file and configs that do not fit raise anything at all
        raise ModelError(f"could not load {file}: {first_line(error)}") from error
    _refuse_contradictions(file, config, tensors, metadata, opened.scheduler)
    with safe_open(file, framework="pt") as reader:
        for part in ("unet", "vae", *towers):
            _compare(file, reader, part, tensors, getattr(opened, part))
    return opened


def _headings(file: Path) -> tuple[list[str], dict[str, str]]:
    try:
        with safe_open(file, framework="pt") as reader:
            return list(reader.keys()), reader.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"could not load {file}: {first_line(error)}") from error


def _refuse_contradictions(
    file: Path, config: Path, tensors: list[str], metadata: Mapping[str, str], scheduler: Any
) -> None:
    """The file's marks (tensors v_pred and ztsnr, modelspec's metadata) against the configs."""
    place = config / "scheduler" / "scheduler_config.json"
    says = metadata.get("modelspec.prediction_type") or metadata.get("modelspec.predict_key") or ""
    is_v = says.lower() in ("v", "v_prediction", "v-prediction", "velocity")
    is_v |= "v_pred" in tensors
    is_v |= metadata.get("modelspec.architecture", "").startswith("stable-diffusion-v2-768-v")
    is_eps = says.lower() in ("eps", "epsilon") and not is_v
    own = scheduler.config.get("prediction_type", "epsilon")
    for claimed, meant in ((is_v, "v_prediction"), (is_eps, "epsilon")):
        if claimed and own != meant:
            raise ModelError(
                f'{file} says that it predicts {meant}, {place} says {own}; set "prediction_type": '
                f'"{meant}" there, in a copy of the folder.'
            )
    if "ztsnr" in tensors and not scheduler.config.get("rescale_betas_zero_snr", False):
        raise ModelError(
            f"{file} says that its noise schedule ends without signal (ztsnr), {place} does not; "
            'set "rescale_betas_zero_snr": true and "timestep_spacing": "trailing" there, with '
            "DDIMScheduler or EulerDiscreteScheduler, in a copy of the folder."
        )


def _compare(file: Path, reader: Any, part: str, keys: list[str], network: Any) -> None:
    """Every weight of the network must be in the file's part, and the other way round."""
    own = dict(network.named_parameters())
    dtype = next(iter(own.values())).dtype
    left: dict[bytes, list[str]] = {}
    # of equal tensors those are taken first that must be used: a copy may stand for a spare layer
    for key in sorted(keys, key=lambda key: not _may_be_unused(key, network)):
        if key.startswith(BEGINNINGS[part]):
            for tensor in _pieces(key, reader.get_tensor(key)):
                left.setdefault(_print(tensor.to(dtype)), []).append(key)
    for name, tensor in own.items():
        found = None if tensor.is_meta else left.get(_print(tensor))
        if not found:
            raise ModelError(f"{file} lacks the {part}'s {name}, or holds another shape of it.")
        found.pop()
    unused = [key for same in left.values() for key in same]
    extra = [key for key in unused if not _may_be_unused(key, network)]
    if extra:
        raise ModelError(
            f"{file} holds {extra[0]}, for which the {part}'s config.json has no place; is the "
            "folder that config names of the same family?"
        )


def _pieces(key: str, tensor: Tensor) -> Iterator[Tensor]:
    """A tensor as the libraries keep it: open_clip joins three matrices and transposes one."""
    if key.endswith((".in_proj_weight", ".in_proj_bias")):
        yield from tensor.chunk(3)
    else:
        yield tensor.T if key.endswith("text_projection") else tensor


def _print(tensor: Tensor) -> bytes:
    """Size and leading values, which tell trained tensors apart."""
    leading = tensor.detach().flatten()[:COMPARED].float().contiguous()
    return tensor.numel().to_bytes(8, "big") + leading.numpy().tobytes()


def _may_be_unused(key: str, network: Any) -> bool:
    # SD 2.x reads the state before the last layer, which its configs leave out
    block = RESBLOCK.search(key)
    is_beyond = block and int(block[1]) >= getattr(network.config, "num_hidden_layers", 10**6)
    return bool(is_beyond or UNUSED.search(key))
