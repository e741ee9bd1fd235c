"""A diffusers folder of Stable Diffusion 3 or FLUX.1 as one .safetensors, by the releases' names.

They hold query, key and value as one matrix (FLUX's later blocks the first matrix of their network,
too), and have the shift of a modulation before its scale. Written apart from the reader, which
leaves the names to diffusers.
"""

from collections.abc import Collection, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from erasure.exports.writing.original_names import clip_names, vae_tensors
from erasure.models.diffusion.flow_file import ENCODERS
from erasure.models.diffusion.single_file import DIFFUSION

# ours and theirs, of one block; what has one name there is one tensor, in this order
SD3_BLOCK = (
    ("norm1.linear", "x_block.adaLN_modulation.1"),
    ("norm1_context.linear", "context_block.adaLN_modulation.1"),
    *((f"attn.to_{part}", "x_block.attn.qkv") for part in "qkv"),
    *((f"attn.add_{part}_proj", "context_block.attn.qkv") for part in "qkv"),
    *((f"attn2.to_{part}", "x_block.attn2.qkv") for part in "qkv"),
    ("attn.to_out.0", "x_block.attn.proj"), ("attn.to_add_out", "context_block.attn.proj"),
    ("attn2.to_out.0", "x_block.attn2.proj"),
    *((f"attn.norm_{part}", f"x_block.attn.ln_{part}") for part in "qk"),
    *((f"attn.norm_added_{part}", f"context_block.attn.ln_{part}") for part in "qk"),
    *((f"attn2.norm_{part}", f"x_block.attn2.ln_{part}") for part in "qk"),
    ("ff.net.0.proj", "x_block.mlp.fc1"), ("ff.net.2", "x_block.mlp.fc2"),
    ("ff_context.net.0.proj", "context_block.mlp.fc1"),
    ("ff_context.net.2", "context_block.mlp.fc2"),
)  # fmt: skip
SD3_ENDS = (
    ("pos_embed.pos_embed", "pos_embed"), ("pos_embed.proj", "x_embedder.proj"),
    ("time_text_embed.timestep_embedder.linear_1", "t_embedder.mlp.0"),
    ("time_text_embed.timestep_embedder.linear_2", "t_embedder.mlp.2"),
    ("time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0"),
    ("time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
    ("context_embedder", "context_embedder"), ("proj_out", "final_layer.linear"),
    ("norm_out.linear", "final_layer.adaLN_modulation.1"),
)  # fmt: skip
FLUX_DOUBLE = (
    ("norm1.linear", "img_mod.lin"), ("norm1_context.linear", "txt_mod.lin"),
    *((f"attn.to_{part}", "img_attn.qkv") for part in "qkv"),
    *((f"attn.add_{part}_proj", "txt_attn.qkv") for part in "qkv"),
    ("attn.norm_q.weight", "img_attn.norm.query_norm.scale"),
    ("attn.norm_k.weight", "img_attn.norm.key_norm.scale"),
    ("attn.norm_added_q.weight", "txt_attn.norm.query_norm.scale"),
    ("attn.norm_added_k.weight", "txt_attn.norm.key_norm.scale"),
    ("attn.to_out.0", "img_attn.proj"), ("attn.to_add_out", "txt_attn.proj"),
    ("ff.net.0.proj", "img_mlp.0"), ("ff.net.2", "img_mlp.2"),
    ("ff_context.net.0.proj", "txt_mlp.0"), ("ff_context.net.2", "txt_mlp.2"),
)  # fmt: skip
FLUX_SINGLE = (
    ("norm.linear", "modulation.lin"),
    *((f"attn.to_{part}", "linear1") for part in "qkv"), ("proj_mlp", "linear1"),
    ("attn.norm_q.weight", "norm.query_norm.scale"), ("attn.norm_k.weight", "norm.key_norm.scale"),
    ("proj_out", "linear2"),
)  # fmt: skip
FLUX_ENDS = (
    ("time_text_embed.timestep_embedder.linear_1", "time_in.in_layer"),
    ("time_text_embed.timestep_embedder.linear_2", "time_in.out_layer"),
    ("time_text_embed.text_embedder.linear_1", "vector_in.in_layer"),
    ("time_text_embed.text_embedder.linear_2", "vector_in.out_layer"),
    ("time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer"),
    ("time_text_embed.guidance_embedder.linear_2", "guidance_in.out_layer"),
    ("context_embedder", "txt_in"), ("x_embedder", "img_in"), ("proj_out", "final_layer.linear"),
    ("norm_out.linear", "final_layer.adaLN_modulation.1"),
)  # fmt: skip
Table = tuple[tuple[str, str], ...]
# the places of the blocks in diffusers and in the release, and what is in them
LAYOUTS: dict[str, tuple[dict[str, tuple[str, Table]], Table]] = {
    "3": ({"transformer_blocks": ("joint_blocks", SD3_BLOCK)}, SD3_ENDS),
    "flux": (
        {
            "transformer_blocks": ("double_blocks", FLUX_DOUBLE),
            "single_transformer_blocks": ("single_blocks", FLUX_SINGLE),
        },
        FLUX_ENDS,
    ),
}


PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")


def write_flow_file(
    pipeline: Any, file: Path, *, parts: Collection[str] = PARTS, start: str = DIFFUSION
) -> Path:
    """Write these parts of it, the transformer's names behind `start`."""
    layout = "flux" if type(pipeline).__name__.startswith("Flux") else "3"
    named = transformer_tensors(pipeline.transformer.state_dict(), layout)
    found = {start + name: tensor for name, tensor in named.items()}
    if "vae" in parts:
        vae = vae_tensors(pipeline.vae.state_dict(), pipeline.vae.config)
        found |= {f"first_stage_model.{name}": tensor for name, tensor in vae.items()}
    for part, beginning in ENCODERS[type(pipeline).__name__].items():
        encoder = getattr(pipeline, part)
        if part in parts and encoder is not None:
            found |= {beginning + n: t for n, t in encoder_tensors(encoder.state_dict()).items()}
    save_file({name: tensor.contiguous().clone() for name, tensor in found.items()}, file)
    return file


def encoder_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder's, each once: T5 has its embeddings under two names."""
    if "shared.weight" in tensors:
        return {n: t for n, t in tensors.items() if n != "encoder.embed_tokens.weight"}
    return {theirs: tensors[ours] for ours, theirs in clip_names(tensors).items()}


def transformer_tensors(tensors: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """A transformer's weights by the release's names; `layout` is "3" or "flux"."""
    blocks, ends = LAYOUTS[layout]
    pairs, turned = list(ends), ["norm_out.linear"]
    for ours, (theirs, table) in blocks.items():
        numbers = sorted({int(n.split(".")[1]) for n in tensors if n.startswith(f"{ours}.")})
        pairs += [(f"{ours}.{n}.{a}", f"{theirs}.{n}.{b}") for n in numbers for a, b in table]
        if layout == "3":  # its text goes no further than the last block
            turned.append(f"{ours}.{numbers[-1]}.norm1_context.linear")
    found: dict[str, Tensor] = {}
    left = set(tensors)
    for theirs, group in groupby(pairs, key=lambda pair: pair[1]):
        parts = [ours for ours, _ in group]
        for kind in ("", ".weight", ".bias"):
            own = [part + kind for part in parts if part + kind in tensors]
            left -= set(own)
            if own:
                joined = torch.cat([tensors[name] for name in own])
                is_turned = parts[0] in turned
                found[theirs + kind] = torch.cat(joined.chunk(2)[::-1]) if is_turned else joined
    assert not left, left
    return found
