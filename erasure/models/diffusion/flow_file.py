"""Open one .safetensors file of Stable Diffusion 3 or FLUX.1, with a diffusers folder beside it.

Releases of these families leave text encoders, or all but the transformer, to files of their own:
what the file lacks is read from the folder. diffusers converts transformer and autoencoder; text
encoders have transformers' own names behind a beginning.
"""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from erasure.errors import ModelError
from erasure.models.diffusion.components import class_of, first_line, network_of, open_networks
from erasure.models.diffusion.single_file import AUTOENCODER, DIFFUSION, compare, headings
from erasure_datasets.errors import DataWarning

CLIP_L, CLIP_G, T5 = (
    f"text_encoders.{name}.transformer." for name in ("clip_l", "clip_g", "t5xxl")
)
ENCODERS = {
    "StableDiffusion3Pipeline": {
        "text_encoder": CLIP_L, "text_encoder_2": CLIP_G, "text_encoder_3": T5,
    },
    "FluxPipeline": {"text_encoder": CLIP_L, "text_encoder_2": T5},
}  # fmt: skip
# a name of the transformer's first block tells the family
BLOCKS = {"StableDiffusion3Pipeline": "joint_blocks.0.", "FluxPipeline": "double_blocks.0."}
PROJECTION = "text_projection.weight"
# beside the parts, and read by nothing
HARMLESS = re.compile(r"^model_ema\.|^text_encoders\.\w+\.(?:logit_scale|spiece_model)$")


def open_flow_file(
    file: Path, config: Path, index: dict[str, Any], parts: Sequence[str], dtype: torch.dtype
) -> dict[str, nn.Module]:
    """The named parts, from the file if it holds them, or else from the folder.

    `index` is the folder's model_index.json. ModelError, in one line, for a file without a
    transformer of the family, a part that neither holds, and a tensor that is absent or has no
    place.
    """
    keys, _ = headings(file)
    family = str(index["_class_name"])
    held = _held(keys, family)
    if "transformer" not in held:
        raise ModelError(
            f"{file} holds no transformer of {family.removesuffix('Pipeline')}, which {config} is "
            f"of ({BLOCKS[family]}…)."
        )
    strange = set(keys).difference(*held.values())
    # single words are marks, such as v_pred
    lost = min((key for key in strange if "." in key and not HARMLESS.search(key)), default=None)
    if lost is not None:
        raise ModelError(
            f"{file} holds {lost}, which is of no part of {family.removesuffix('Pipeline')} that "
            "is known here."
        )
    absent = [part for part in parts if part not in held]
    for part in absent:
        if not any((config / part).glob("*.safetensors")):
            raise ModelError(
                f"{file} holds no {part}, and neither does {config / part}; a file that leaves it "
                "out needs a folder with its weights."
            )
    for part in [part for part in held if part not in parts]:
        warnings.warn(
            f"{file} holds {part}, which {config / 'model_index.json'} leaves out: the model reads "
            "and draws without it.",
            DataWarning,
            stacklevel=2,
        )
    found = open_networks(config, index, absent, dtype)
    with safe_open(file, framework="pt") as reader:
        for part in [part for part in parts if part in held]:
            kind = class_of(part, index, config)
            tensors = {key: reader.get_tensor(key) for key in held[part]}
            if part.startswith("text_encoder"):
                found[part] = _encoder(file, config / part, kind, tensors, dtype)
                continue
            found[part] = _converted(file, config, part, kind, tensors, dtype)
            compare(file, part, held[part], reader.get_tensor, found[part])
    return found


def _held(keys: Sequence[str], family: str) -> dict[str, list[str]]:
    """The file's names of each part that it holds."""
    beginnings: dict[str, tuple[str, ...]] = {"vae": AUTOENCODER}
    beginnings |= {part: (start,) for part, start in ENCODERS[family].items()}
    found = {
        part: [key for key in keys if key.startswith(starts)] for part, starts in beginnings.items()
    }
    if any(key.startswith(DIFFUSION + BLOCKS[family]) for key in keys):
        found["transformer"] = [key for key in keys if key.startswith(DIFFUSION)]
    elif any(key.startswith(BLOCKS[family]) for key in keys):  # a file of the transformer alone
        others = {key for names in found.values() for key in names}
        found["transformer"] = [key for key in keys if key not in others]
    return {part: names for part, names in found.items() if names}


def _converted(
    file: Path, config: Path, part: str, kind: Any, tensors: dict[str, Any], dtype: torch.dtype
) -> nn.Module:
    try:
        return kind.from_single_file(
            tensors, config=str(config), subfolder=part, dtype=dtype, local_files_only=True
        )
    except KeyError as error:
        raise ModelError(f"{file} lacks the {part}'s {error.args[0]}.") from error
    except NotImplementedError as error:  # a weight without values cannot be moved
        raise ModelError(
            f"{file} lacks weights of the {part} that {config / part / 'config.json'} asks for."
        ) from error
    except Exception as error:  # a file and configs that do not fit raise anything at all
        raise ModelError(f"could not load {file}: {first_line(error)}") from error


def _encoder(
    file: Path, config: Path, kind: Any, tensors: dict[str, Any], dtype: torch.dtype
) -> nn.Module:
    """A text encoder of transformers' names behind a beginning that ends in `transformer.`."""
    plain = {key.partition(".transformer.")[2]: tensor.to(dtype) for key, tensor in tensors.items()}
    if kind.__name__ == "CLIPTextModelWithProjection" and PROJECTION not in plain:
        # files may leave out what changes nothing
        norm = next((t for key, t in plain.items() if key.endswith("final_layer_norm.weight")), ())
        plain[PROJECTION] = torch.eye(len(norm), dtype=dtype)
    try:
        own = kind.config_class.from_pretrained(str(config), local_files_only=True)
    except Exception as error:  # a config can make the library raise anything at all
        raise ModelError(f"could not load {config}: {first_line(error)}") from error
    return network_of(kind, None, f"{file} ({config.name})", dtype, config=own, state_dict=plain)
