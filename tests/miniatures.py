"""Miniatures of diffusion models with random weights, in the shapes of SD 1.4, 2.1, XL, 3, FLUX."""

import string
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from erasure.models.built_in import POCKET

Family = Literal["1", "2", "xl"]
NOISE = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
}  # fmt: skip


def build_miniature(folder: Path, family: Family) -> Path:
    """A pipeline of random weights, in the shape of 1.4, of 2.1, or of XL.

    SD 1.4: heads by number, convolutional projections, PNDM, quick_gelu. SD 2.1: v-prediction,
    heads per level, linear projections, DDIM, an OpenCLIP tower (gelu, one layer fewer than it was
    trained with, padded with "!"). XL: the first's tower beside a wider OpenCLIP tower with a
    projection, two transformer blocks in a level, the size of the image as input, Euler.
    """
    torch.manual_seed(["1", "2", "xl"].index(family) + 1)
    is_old = family == "1"
    blocks = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
    shape: dict[str, Any] = {
        "attention_head_dim": 4 if is_old else [2, 4],
        "cross_attention_dim": 32,
    }
    if family == "xl":
        blocks = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
        shape |= {
            "cross_attention_dim": 32 + 64, "transformer_layers_per_block": [1, 2],
            "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 32 + 6 * 8,
        }  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(16, 32), norm_num_groups=8,
        down_block_types=blocks[0], up_block_types=blocks[1], use_linear_projection=not is_old,
        **shape,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4,
        sample_size=16,
    )  # fmt: skip
    if family == "xl":
        StableDiffusionXLPipeline(
            vae=vae, unet=unet, text_encoder=tower(CLIPTextModel, 32, "quick_gelu"),
            text_encoder_2=tower(CLIPTextModelWithProjection, 64, "gelu", projection_dim=32),
            tokenizer=tokenizer(), tokenizer_2=tokenizer("!"),
            scheduler=EulerDiscreteScheduler(**NOISE, timestep_spacing="leading"),
            add_watermarker=False,
        ).save_pretrained(folder)  # fmt: skip
        return folder
    if is_old:
        scheduler = PNDMScheduler(**NOISE, skip_prk_steps=True)
    else:
        scheduler = DDIMScheduler(
            **NOISE, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False
        )
    StableDiffusionPipeline(
        vae=vae, unet=unet, scheduler=scheduler, tokenizer=tokenizer(None if is_old else "!"),
        text_encoder=tower(CLIPTextModel, 32, "quick_gelu" if is_old else "gelu"),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def build_sd3(folder: Path) -> Path:
    """A pipeline of random weights in the shape of SD 3 without T5, with shifted latents."""
    torch.manual_seed(4)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=104,
        caption_projection_dim=16, pooled_projection_dim=16 + 32, pos_embed_max_size=8,
        qk_norm="rms_norm",
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4,
        sample_size=16, scaling_factor=1.5, shift_factor=0.06, use_quant_conv=False,
        use_post_quant_conv=False,
    )  # fmt: skip
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=tower(CLIPTextModelWithProjection, 32, "quick_gelu", projection_dim=16),
        text_encoder_2=tower(CLIPTextModelWithProjection, 64, "gelu", projection_dim=32),
        tokenizer=tokenizer(), tokenizer_2=tokenizer("!"), text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    # the pipeline asks for 256 rows without T5, which takes a miniature long
    (folder / "text.json").write_text('{"max_sequence_length": 3}')
    return folder


def build_flux(folder: Path, *, is_dev: bool) -> Path:
    """A pipeline of random weights in the shape of FLUX.1 dev, or of schnell.

    dev reads a guidance and shifts its times by the image's size; schnell does neither.
    """
    torch.manual_seed(6)
    transformer = FluxTransformer2DModel(
        in_channels=4 * 4, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=16,
        guidance_embeds=is_dev, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4,
        sample_size=16, scaling_factor=0.36, shift_factor=0.12, use_quant_conv=False,
        use_post_quant_conv=False,
    )  # fmt: skip
    own = t5_tokenizer()
    t5 = T5Config(vocab_size=len(own), d_model=32, d_kv=8, d_ff=16, num_heads=2, num_layers=1)
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0 if is_dev else 1.0, use_dynamic_shifting=is_dev
    )
    pipeline = FluxPipeline(
        transformer=transformer, vae=vae, scheduler=scheduler,
        text_encoder=tower(CLIPTextModel, 16, "quick_gelu"), tokenizer=tokenizer(),
        text_encoder_2=T5EncoderModel(t5), tokenizer_2=own,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    # else 512 rows and 128 by 128 latents, which take a miniature long
    (folder / "text.json").write_text('{"max_sequence_length": 32}')
    (folder / "size.json").write_text('{"resolution": 16}')
    return folder


def t5_tokenizer() -> T5TokenizerFast:
    """Of the pieces that pocket's has, and capital letters."""
    pieces = [
        "\u2581" + entry.removesuffix("</w>") if entry.endswith("</w>") else entry
        for entry in tokenizer().get_vocab()
    ]
    special = ["<pad>", "</s>", "<unk>"]
    known = [*special, *dict.fromkeys(["\u2581", *string.ascii_uppercase, *pieces])]
    scores = [(piece, -float(piece not in special)) for piece in known]
    return T5TokenizerFast(vocab=scores, extra_ids=0)


def tokenizer(padding: str | None = None) -> CLIPTokenizer:
    """Pocket's; it pads with its end token as CLIP's, or with "!" as OpenCLIP's."""
    options = {"pad_token": padding} if padding else {}
    return CLIPTokenizer.from_pretrained(POCKET / "tokenizer", **options)


def tower(kind: type, width: int, activation: str, **more: int) -> Any:
    """A text encoder of two layers."""
    own = tokenizer()
    return kind(
        CLIPTextConfig(
            vocab_size=len(own), hidden_size=width, intermediate_size=2 * width,
            num_attention_heads=4, num_hidden_layers=2, max_position_embeddings=32,
            hidden_act=activation, bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id,
            pad_token_id=own.pad_token_id, **more,
        )
    )  # fmt: skip
