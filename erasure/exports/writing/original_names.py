"""Names of the weights in the original releases' files, by the names that the libraries use.

Of the UNet and the autoencoder of CompVis' latent-diffusion (Stable Diffusion 1.x and 2.x) and
Stability's generative-models (XL), and of the text towers of transformers and of open_clip that
they hold. What is named here, `from_single_file` of diffusers names back.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from erasure.errors import ModelError

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET_ENDS = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
UNET_BLOCKS = {
    "down_block_types": {"DownBlock2D", "CrossAttnDownBlock2D"},
    "mid_block_type": {"UNetMidBlock2DCrossAttn"},
    "up_block_types": {"UpBlock2D", "CrossAttnUpBlock2D"},
}
VAE_BLOCKS = {
    "down_block_types": {"DownEncoderBlock2D"},
    "up_block_types": {"UpDecoderBlock2D"},
}
VAE_RESNET = {
    "norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2",
    "conv_shortcut": "nin_shortcut",
}  # fmt: skip
VAE_ATTENTION = {
    "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
}  # fmt: skip
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
OPEN_CLIP_ENDS = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias",
}  # fmt: skip
LEVEL = re.compile(
    r"(down|up)_blocks\.(\d+)\.(resnets|attentions|(?:down|up)samplers)\.(\d+)\.(.+)"
)
MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)")
VAE_LEVEL = re.compile(
    r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(resnets|(?:down|up)samplers)\.(\d+)\.(.+)"
)
VAE_MIDDLE = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d)\.(.+)")
LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")


def unet_names(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """The names of a UNet2DConditionModel's weights, or modules, in the original releases.

    ModelError for a UNet of other blocks than theirs.
    """
    _refuse_other_blocks(config, UNET_BLOCKS, "UNet")
    layers = config["layers_per_block"]
    if not isinstance(layers, int):
        raise ModelError(
            f"layers_per_block of the UNet must be one number in a single file; got {layers}."
        )
    attended = [kind.startswith("CrossAttn") for kind in config["up_block_types"]]
    return {name: _unet_name(name, layers, attended) for name in names}


def _unet_name(name: str, layers: int, attended: list[bool]) -> str:
    middle, level = MIDDLE.fullmatch(name), LEVEL.fullmatch(name)
    if middle:
        kind, number, rest = middle.groups()
        place = 1 if kind == "attentions" else 2 * int(number)
        return f"middle_block.{place}.{_inner(kind, rest, name)}"
    if not level:
        return _renamed(name, UNET_ENDS, name)
    side, block, kind, number, rest = level.groups()
    start, kinds = int(block) * (layers + 1), ("resnets", "attentions")
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{start + layers + 1}.0.{_renamed(rest, {'conv': 'op'}, name)}"
        place = f"input_blocks.{start + int(number) + 1}.{kinds.index(kind)}"
    elif kind == "upsamplers":  # after the level's last resnet, and its attention if it has one
        after = 2 if attended[int(block)] else 1
        return f"output_blocks.{start + layers}.{after}.{_renamed(rest, {'conv': 'conv'}, name)}"
    else:
        place = f"output_blocks.{start + int(number)}.{kinds.index(kind)}"
    return f"{place}.{_inner(kind, rest, name)}"


def _inner(kind: str, rest: str, name: str) -> str:
    """Within a resnet; what is within an attention has the same name in both."""
    return _renamed(rest, RESNET, name) if kind == "resnets" else rest


def vae_tensors(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """An AutoencoderKL's weights by the original names; matrices of attention as convolutions.

    ModelError for an autoencoder of other blocks than theirs.
    """
    _refuse_other_blocks(config, VAE_BLOCKS, "autoencoder")
    levels, found = len(config["up_block_types"]), {}
    for name, tensor in tensors.items():
        is_matrix = ".attentions." in name and tensor.ndim == 2
        found[_vae_name(name, levels)] = tensor[..., None, None] if is_matrix else tensor
    return found


def _vae_name(name: str, levels: int) -> str:
    middle, level = VAE_MIDDLE.fullmatch(name), VAE_LEVEL.fullmatch(name)
    if middle:
        half, kind, number, rest = middle.groups()
        if kind == "attentions":
            return f"{half}.mid.attn_1.{_renamed(rest, VAE_ATTENTION, name)}"
        return f"{half}.mid.block_{int(number) + 1}.{_renamed(rest, VAE_RESNET, name)}"
    if level:
        half, side, block, kind, number, rest = level.groups()
        # the original counts both ways from the image
        place = int(block) if side == "down" else levels - 1 - int(block)
        if kind == "resnets":
            return f"{half}.{side}.{place}.block.{number}.{_renamed(rest, VAE_RESNET, name)}"
        return f"{half}.{side}.{place}.{kind.removesuffix('rs')}.{rest}"
    if name.startswith(("quant_conv.", "post_quant_conv.")):
        return name
    half, _, rest = name.partition(".")
    ends = {"conv_in": "conv_in", "conv_out": "conv_out", "conv_norm_out": "norm_out"}
    return f"{half}.{_renamed(rest, ends, name)}"


def clip_names(names: Iterable[str]) -> dict[str, str]:
    """The names of a transformers tower, as every release of that library reads them."""
    outside = ("text_model.", "text_projection.")
    return {name: name if name.startswith(outside) else f"text_model.{name}" for name in names}


def open_clip_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformers tower by open_clip's names.

    Query, key and value are one matrix there, and the projection is transposed.
    """
    plain = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    found: dict[str, Tensor] = {}
    for name, tensor in plain.items():
        layer = LAYER.fullmatch(name)
        if name == "text_projection.weight":
            found["text_projection"] = tensor.T
        elif not layer:
            found[_renamed(name, OPEN_CLIP_ENDS, name)] = tensor
        elif layer[2].startswith("self_attn.q_proj."):
            parts = [plain[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            kind = layer[2].rpartition(".")[2]
            found[f"transformer.resblocks.{layer[1]}.attn.in_proj_{kind}"] = torch.cat(parts)
        elif not layer[2].startswith(("self_attn.k_proj.", "self_attn.v_proj.")):
            inner = _renamed(layer[2], OPEN_CLIP_LAYER, name)
            found[f"transformer.resblocks.{layer[1]}.{inner}"] = tensor
    return found


def _renamed(text: str, table: Mapping[str, str], whole: str) -> str:
    """A name by its beginning, which must be in the table."""
    for ours, theirs in table.items():
        if text == ours or text.startswith(f"{ours}."):
            return theirs + text.removeprefix(ours)
    raise ModelError(f"{whole} has no name in the original releases' layout.")


def _refuse_other_blocks(
    config: Mapping[str, Any], known: Mapping[str, set[str]], what: str
) -> None:
    for field, kinds in known.items():
        value = config[field]
        for kind in [value] if value is None or isinstance(value, str) else value:
            if kind not in kinds:
                raise ModelError(
                    f"{field} of the {what} must be of {' and '.join(sorted(kinds))} in the "
                    f"original releases' layout; got {kind}."
                )
