"""Open one .safetensors file of Stable Diffusion 1.x, 2.x or XL, with configs beside it.

diffusers converts the names. What it did not find, and what it did not use, is found here by the
tensors' values, whatever their names became.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from erasure.errors import ModelError
from erasure.models.diffusion.components import first_line

DIFFUSION = "model.diffusion_model."
AUTOENCODER = ("first_stage_model.", "vae.")
# how the names of each part begin in a file
BEGINNINGS: dict[str, tuple[str, ...]] = {
    "unet": (DIFFUSION,),
    "vae": AUTOENCODER,
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
# what a checkpoint may hold beside the weights that are asked
UNUSED = re.compile(
    r"position_ids$|logit_scale$|text_projection(?:\.weight)?$|\.loss\.|model_ema\."
)
JOINED = tuple(f"{name}{kind}" for name in (".in_proj_", ".qkv.") for kind in ("weight", "bias"))
SINGLE_BLOCK = re.compile(r"single_blocks\.\d+\.linear1\.(?:weight|bias)$")
MODULATION = re.compile(r"adaLN_modulation\.1\.(?:weight|bias)$")
# what files of scaled or quantised weights hold beside them
QUANTISED = re.compile(
    r"(?:\.|^)(?:scale_weight|weight_scale(?:_2)?|scale_input|input_scale|scaled_fp8|comfy_quant"
    r"|weight\.absmax|weight\.(?:nested_)?quant_(?:map|state)(?:\.\w+)?)$"
)
RESBLOCK = re.compile(r"\.resblocks\.(\d+)\.")
COMPARED = 4096  # leading values of a tensor: enough to tell trained ones apart
NEEDED = (
    "a diffusers folder of the same family, with model_index.json, the config.json of the networks,"
    " the tokenizers' files and the scheduler's config; weights are read from it only for what a "
    "file of SD 3 or FLUX leaves out"
)


def open_single_file(
    file: Path, config: Path, pipeline: Any, towers: tuple[str, ...], dtype: torch.dtype,
    without: dict[str, Any],
) -> Any:  # fmt: skip
    """The pipeline of a file and a folder of configs.

    ModelError for a part or tensor that the file lacks, one that is not used, and for a file that
    says of itself what the configs deny.
    """
    tensors, metadata = headings(file)
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
            own = [key for key in tensors if key.startswith(BEGINNINGS[part])]
            compare(file, part, own, reader.get_tensor, getattr(opened, part))
    return opened


def headings(file: Path) -> tuple[list[str], dict[str, str]]:
    """The names of a file's tensors, and its metadata.

    ModelError if it is no .safetensors, or its weights are not what its tensors say by themselves.
    """
    try:
        with safe_open(file, framework="pt") as reader:
            keys, metadata = list(reader.keys()), reader.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"could not load {file}: {first_line(error)}") from error
    quantised = next((key for key in keys if QUANTISED.search(key)), None)
    if quantised:
        raise ModelError(
            f"{file} holds {quantised}: its weights are quantised, or come with scales; a file of "
            "plain weights is needed (float32, bfloat16, float16, or float8 without scales)."
        )
    return keys, metadata


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


def compare(
    file: Path, part: str, keys: Sequence[str], read: Callable[[str], Tensor], network: Any
) -> None:
    """ModelError unless these tensors of a file are what the network holds, one by one.

    `keys` are their names, and `read` gives each; the network's own may be others.
    """
    own = {
        name: tensor for name, tensor in network.state_dict().items() if tensor.is_floating_point()
    }
    dtype = next(iter(own.values())).dtype
    left: dict[bytes, list[str]] = {}
    # of equal tensors those are taken first that must be used: a copy may stand for a spare layer
    for key in sorted(keys, key=lambda key: not _may_be_unused(key, network)):
        for tensor in _pieces(key, read(key), network):
            left.setdefault(_print(tensor, dtype), []).append(key)
    for name, tensor in own.items():
        found = None if tensor.is_meta else left.get(_print(tensor, dtype))
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


def _pieces(key: str, tensor: Tensor, network: Any) -> Iterator[Tensor]:
    """A tensor as the libraries keep it: they take joined matrices apart and transpose one.

    Where a transformer's modulation has a shift and a scale alone, they turn the two round.
    """
    if key.endswith(JOINED):
        yield from tensor.chunk(3)
    elif SINGLE_BLOCK.search(key):  # query, key, value and the first half of the network
        width = network.inner_dim
        yield from tensor.split((width, width, width, len(tensor) - 3 * width))
    elif MODULATION.search(key) and len(tensor) == 2 * network.inner_dim:
        yield torch.cat(tensor.chunk(2)[::-1])
    else:
        yield tensor.T if key.endswith("text_projection") else tensor


def _print(tensor: Tensor, dtype: torch.dtype) -> bytes:
    """Size and leading values, as of this type, which tell trained tensors apart."""
    leading = tensor.detach().flatten()[:COMPARED].to(dtype).float().contiguous()
    return tensor.numel().to_bytes(8, "big") + leading.numpy().tobytes()


def _may_be_unused(key: str, network: Any) -> bool:
    # SD 2.x reads the state before the last layer, which its configs leave out
    block = RESBLOCK.search(key)
    is_beyond = block and int(block[1]) >= getattr(network.config, "num_hidden_layers", 10**6)
    return bool(is_beyond or UNUSED.search(key))
