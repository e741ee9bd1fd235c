"""The keys of a single file at the releases' own sizes, against diffusers' converter of them."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils as converter
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from erasure.errors import ModelError
from erasure.exports.writing.original_names import unet_names
from erasure.exports.writing.single_file import original_tensors

FAKE = FakeTensorMode()  # shapes without values
WIDTHS = (320, 640, 1280, 1280)
UNETS: dict[str, dict[str, Any]] = {
    "1": {"block_out_channels": WIDTHS, "cross_attention_dim": 768, "attention_head_dim": 8},
    "2": {
        "block_out_channels": WIDTHS, "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True,
    },
    "xl": {
        "block_out_channels": WIDTHS[:3], "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20], "transformer_layers_per_block": [1, 2, 10],
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
# hidden size, layers, activation
TOWERS = {"1": (768, 12, "quick_gelu"), "2": (1024, 23, "gelu"), "xl": (768, 12, "quick_gelu")}
# tensors of UNet, autoencoder and text towers in v1-5-pruned-emaonly, v2-1_768 and sd_xl_base_1.0,
# without buffers of training: 24 layers of 12 and six more make open_clip's smaller tower
COUNTS = {"1": (686, 248, 197), "2": (686, 248, 294), "xl": (1680, 248, 197 + 390)}


def tower(kind: type, width: int, layers: int, activation: str) -> Any:
    return kind(
        CLIPTextConfig(
            hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
            num_attention_heads=width // 64, hidden_act=activation, projection_dim=width,
        )
    )  # fmt: skip


@pytest.fixture(scope="module", params=["1", "2", "xl"])
def released(request: pytest.FixtureRequest) -> tuple[str, Any, dict[str, torch.Tensor]]:
    """(layout, pipeline, its file's tensors) of a release's size, without memory for values."""
    layout = request.param
    with FAKE:
        blocks = 4
        parts = SimpleNamespace(
            unet=UNet2DConditionModel(**UNETS[layout]),
            vae=AutoencoderKL(
                block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
                down_block_types=("DownEncoderBlock2D",) * blocks,
                up_block_types=("UpDecoderBlock2D",) * blocks,
            ),
            text_encoder=tower(CLIPTextModel, *TOWERS[layout]),
            text_encoder_2=tower(CLIPTextModelWithProjection, 1280, 32, "gelu"),
        )  # fmt: skip
        tensors = original_tensors(SimpleNamespace(pipeline=parts), layout)  # type: ignore[arg-type]
    return layout, parts, tensors


def test_the_file_is_known_for_what_it_is(released: tuple) -> None:
    layout, _, tensors = released
    known = {"1": "v1", "2": "v2", "xl": "xl_base"}
    assert converter.infer_diffusers_model_type(tensors) == known[layout]
    parts = ("model.diffusion_model.", "first_stage_model.", ("cond_stage", "conditioner"))
    counts = tuple(sum(name.startswith(part) for name in tensors) for part in parts)
    assert counts == COUNTS[layout]
    assert sum(counts) == len(tensors)


def test_the_converter_finds_every_unet_and_vae_weight(released: tuple) -> None:
    _, parts, tensors = released
    with FAKE:
        unet = converter.convert_ldm_unet_checkpoint(dict(tensors), config=parts.unet.config)
        vae = converter.convert_ldm_vae_checkpoint(dict(tensors), config=parts.vae.config)
    for found, network in ((unet, parts.unet), (vae, parts.vae)):
        assert shapes(found) == shapes(network.state_dict())


def test_the_converter_finds_every_weight_of_the_text_towers(released: tuple) -> None:
    layout, parts, tensors = released
    ignored = set(converter.SD_2_TEXT_ENCODER_KEYS_TO_IGNORE)
    assert (ignored <= tensors.keys()) == (layout == "2")  # a layer that diffusers leaves out
    opens = {"2": (parts.text_encoder, "cond_stage_model.model."),
             "xl": (parts.text_encoder_2, "conditioner.embedders.1.model.")}  # fmt: skip
    with FAKE:
        if layout != "2":
            found = converter.convert_ldm_clip_checkpoint(dict(tensors))
            found.pop("text_model.embeddings.position_ids")
            assert shapes(found) == shapes(parts.text_encoder.state_dict())
        if layout != "1":
            network, prefix = opens[layout]
            found = converter.convert_open_clip_checkpoint(network, dict(tensors), prefix=prefix)
            assert shapes(found) == shapes(network.state_dict())
    integers = {name for name, tensor in tensors.items() if not tensor.is_floating_point()}
    assert all(name.endswith("position_ids") for name in integers)
    scales = {name for name in tensors if name.endswith("logit_scale")}
    assert len(scales) == (layout != "1")


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Transformers 5 takes "text_model." off the names of one tower and not of the other."""
    return {
        name.removeprefix("text_model."): tuple(tensor.shape) for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mid_block_type": "UNetMidBlock2D"},
            r"mid_block_type of the UNet must be of UNetMidBlock2DCrossAttn .*got UNetMidBlock2D\.",
        ),
        (
            {"down_block_types": ("AttnDownBlock2D",)},
            r"down_block_types .*CrossAttnDownBlock2D and DownBlock2D .*got AttnDownBlock2D\.",
        ),
        ({"layers_per_block": (2, 1)}, r"layers_per_block .* must be one number .*got \(2, 1\)\."),
    ],
)
def test_other_blocks_are_refused(changes: dict[str, Any], message: str) -> None:
    config = {
        "down_block_types": ("DownBlock2D",), "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ("UpBlock2D",), "layers_per_block": 2,
    }  # fmt: skip
    with pytest.raises(ModelError, match=message):
        unet_names(["conv_in.weight"], config | changes)


def test_a_weight_without_a_name_is_refused() -> None:
    config = {
        "down_block_types": ("DownBlock2D",), "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ("UpBlock2D",), "layers_per_block": 2,
    }  # fmt: skip
    for name in ("class_embedding.weight", "down_blocks.0.resnets.0.spatial.weight"):
        with pytest.raises(ModelError, match=f"{name} has no name in the original"):
            unet_names([name], config)
