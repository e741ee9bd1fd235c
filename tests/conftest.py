"""Miniature Stable Diffusions with random weights, in the shapes of 1.4 and 2.1."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import json
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from erasure.models.load import POCKET, load_model
from erasure.models.stable_diffusion import StableDiffusion

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def build_miniature(folder: Path, *, is_v2: bool) -> Path:
    """A pipeline of random weights, in the shape of 1.4 or of 2.1.

    SD 1.4: heads by number, convolutional projections, PNDM, quick_gelu. SD 2.1: v-prediction,
    heads per level, linear projections, DDIM, gelu, one text layer fewer than the tower has.
    """
    torch.manual_seed(2 if is_v2 else 1)
    tokenizer = CLIPTokenizer.from_pretrained(POCKET / "tokenizer")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_attention_heads=4,
            num_hidden_layers=2, max_position_embeddings=32,
            hidden_act="gelu" if is_v2 else "quick_gelu", bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(16, 32), norm_num_groups=8,
        cross_attention_dim=32, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=[2, 4] if is_v2 else 4, use_linear_projection=is_v2,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4,
        sample_size=16,
    )  # fmt: skip
    noise = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }
    if is_v2:
        scheduler = DDIMScheduler(
            **noise, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False
        )
    else:
        scheduler = PNDMScheduler(**noise, skip_prk_steps=True)
    StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_miniature(tmp_path_factory.mktemp("models") / "sd1", is_v2=False)


@pytest.fixture(scope="session")
def sd2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_miniature(tmp_path_factory.mktemp("models") / "sd2", is_v2=True)


@pytest.fixture(scope="session")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SD 1.4 miniature with a list of concepts of its own."""
    folder = build_miniature(tmp_path_factory.mktemp("models") / "listed", is_v2=False)
    record = {
        "objects": ["cat", "dog", "tree"],
        "styles": ["Photo", "Sketch"],
        "plain_style": "Photo",
    }
    (folder / "concepts.json").write_text(
        json.dumps({**record, "sentence": "A {object} image in {style} style."})
    )
    return folder


@pytest.fixture
def pocket() -> StableDiffusion:
    return load_model("pocket")
