"""Write a diffusers folder as one .safetensors file, named as the original releases are.

This is the inverse of diffusers' own converter.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn": "attn",
}
OPEN_CLIP_ENDS = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def write_single_file(folder: Path, file: Path) -> Path:
    """Join UNet, VAE and text encoders of a folder under the releases' names.

    SD 2.x's files hold the last layer of their OpenCLIP tower, which its folders leave out.
    """
    layers = json.loads((folder / "unet" / "config.json").read_text())["layers_per_block"]
    unet = _weights(folder / "unet")
    attended = {
        name.split(".")[1]
        for name in unet
        if name.startswith("up_blocks.") and ".attentions." in name
    }
    tensors = {
        f"model.diffusion_model.{_unet_name(name, layers, attended)}": tensor
        for name, tensor in unet.items()
    }
    levels = len(json.loads((folder / "vae" / "config.json").read_text())["block_out_channels"])
    for name, tensor in _weights(folder / "vae").items():
        is_attention_matrix = ".attentions." in name and tensor.ndim == 2
        shaped = tensor[..., None, None] if is_attention_matrix else tensor
        tensors[f"first_stage_model.{_vae_name(name, levels)}"] = shaped
    is_xl = (folder / "text_encoder_2").is_dir()
    first = "conditioner.embedders.0" if is_xl else "cond_stage_model"
    text = _weights(folder / "text_encoder")
    if json.loads((folder / "text_encoder" / "config.json").read_text())["hidden_act"] == "gelu":
        last = max(
            int(name.split("layers.")[1].split(".")[0]) for name in text if "layers." in name
        )
        for name in [name for name in text if f"layers.{last}." in name]:
            text[name.replace(f"layers.{last}.", f"layers.{last + 1}.")] = text[name] + 0.5
        text["text_projection.weight"] = torch.ones(32, 32)  # not used
        named = _open_clip(text)
        tensors |= {f"cond_stage_model.model.{name}": tensor for name, tensor in named.items()}
        text = {}
    for name, tensor in text.items():
        plain = name.removeprefix("text_model.")
        tensors[f"{first}.transformer.text_model.{plain}"] = tensor
    if is_xl:
        for name, tensor in _open_clip(_weights(folder / "text_encoder_2")).items():
            tensors[f"conditioner.embedders.1.model.{name}"] = tensor
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return file


def _weights(folder: Path) -> dict[str, Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


def _open_clip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A transformers tower by open_clip's names, with q, k and v in one matrix."""
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix("text_model.")
        if plain == "text_projection.weight":
            named["text_projection"] = tensor.T
        elif plain.startswith("encoder.layers."):
            number, _, rest = plain.removeprefix("encoder.layers.").partition(".")
            for ours, theirs in OPEN_CLIP.items():
                rest = rest.replace(ours, theirs)
            named[f"transformer.resblocks.{number}.{rest}"] = tensor
        else:
            for ours, theirs in OPEN_CLIP_ENDS.items():
                plain = plain.replace(ours, theirs)
            named[plain] = tensor
    for name in [name for name in named if ".attn.q_proj." in name]:
        parts = [named.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        named[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return named


def _unet_name(name: str, layers: int, attended: set[str]) -> str:
    for ours, theirs in UNET_RESNET.items():
        name = name.replace(f".{ours}.", f".{theirs}.") if ".resnets." in name else name
    for ours, theirs in UNET_ENDS.items():
        if name.startswith(ours + "."):
            return name.replace(ours, theirs, 1)
    side, level, kind, number, *rest = name.split(".")
    place, tail = int(level) * (layers + 1), ".".join(rest)
    if side == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{place + layers + 1}.0.op.{tail.removeprefix('conv.')}"
        return f"input_blocks.{place + int(number) + 1}.{'10'[kind == 'resnets']}.{tail}"
    if kind == "upsamplers":  # after the level's last resnet, and its attention where it has one
        return f"output_blocks.{place + layers}.{'12'[level in attended]}.{tail}"
    return f"output_blocks.{place + int(number)}.{'10'[kind == 'resnets']}.{tail}"


def _vae_name(name: str, levels: int) -> str:
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = name.replace("mid_block.resnets.0", "mid.block_1")
    name = name.replace("mid_block.resnets.1", "mid.block_2")
    if "mid_block.attentions.0" in name:
        for ours, theirs in VAE_ATTENTION.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
        return name.replace("mid_block.attentions.0", "mid.attn_1")
    parts = name.split(".")
    if parts[1] in ("down_blocks", "up_blocks"):
        is_down = parts[1] == "down_blocks"
        level = int(parts[2]) if is_down else levels - 1 - int(parts[2])
        kinds = {
            "resnets": f"block.{parts[4]}",
            "downsamplers": "downsample",
            "upsamplers": "upsample",
        }
        head = [parts[0], "down" if is_down else "up", str(level), kinds[parts[3]]]
        return ".".join(head + parts[5:])
    return name
