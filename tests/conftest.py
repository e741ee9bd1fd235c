"""Miniature Stable Diffusions with random weights, in the shapes of 1.4, 2.1, XL and 3."""

import os
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("ERASURE_CACHE", os.path.join(tempfile.gettempdir(), "erasure-test-cache"))
if os.environ.get("ATEN_CPU_CAPABILITY") in ("default", "avx2"):
    # torch's bfloat16 attention asks oneDNN whether there is AVX-512, and then fails in ATen
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
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
)

from erasure import registry
from erasure.commandline.main import main
from erasure.files.storage import read_tensors, write_tensors
from erasure.models.built_in import POCKET
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.registry import ATTACKS, CRITERIA, EXPORTS, METHODS, PROTOCOLS, load_plugin
from erasure.training.run import Run

Program = Callable[..., tuple[int, str, str]]  # what it exits with, says, and says of errors

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cuda-device", default="cuda", choices=("cuda", "cpu"),
        help="what the tests marked cuda run on; cpu tries their code without a card",
    )  # fmt: skip


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


@pytest.fixture
def sd3_with_t5(sd3: Path, tmp_path: Path) -> Path:
    """The miniature of SD 3 with a T5 that reads the towers' tokens."""
    own, other = tokenizer(), tmp_path / "with-t5"
    torch.manual_seed(5)
    config = T5Config(vocab_size=len(own), d_model=104, d_kv=8, d_ff=16, num_heads=2, num_layers=1)
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        sd3, text_encoder_3=T5EncoderModel(config), tokenizer_3=own
    )
    pipeline.save_pretrained(other)
    shutil.copy(sd3 / "text.json", other)
    return other


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


@pytest.fixture(scope="session")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_miniature(tmp_path_factory.mktemp("models") / "sd1", "1")


@pytest.fixture(scope="session")
def sd2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_miniature(tmp_path_factory.mktemp("models") / "sd2", "2")


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_miniature(tmp_path_factory.mktemp("models") / "sdxl", "xl")


@pytest.fixture(scope="session")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_sd3(tmp_path_factory.mktemp("models") / "sd3")


@pytest.fixture(scope="session")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SD 1.4 miniature with a list of concepts of its own."""
    folder = build_miniature(tmp_path_factory.mktemp("models") / "listed", "1")
    record = {
        "objects": ["cat", "dog", "tree"],
        "styles": ["Photo", "Sketch"],
        "plain_style": "Photo",
    }
    (folder / "concepts.json").write_text(
        json.dumps({**record, "sentence": "A {object} image in {style} style."})
    )
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pocket CLIP as open_clip saves a model for the Hub."""
    place = tmp_path_factory.mktemp("clip")
    config = json.loads((POCKET / "clip" / "pocket-clip.json").read_text())
    config["text_cfg"]["hf_tokenizer_name"] = "its own folder"
    record = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (place / "open_clip_config.json").write_text(json.dumps(record))
    tensors, _ = read_tensors(POCKET / "clip" / "model.safetensors")
    plain = {name: tensor.float() for name, tensor in tensors.items()}
    write_tensors(place / "open_clip_model.safetensors", plain)
    shutil.copytree(POCKET / "tokenizer", place, dirs_exist_ok=True)
    return place


@pytest.fixture
def pocket() -> StableDiffusion:
    return load_model("pocket")


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path, str], Path]]:
    """Write a file and load it as a plug-in, for the length of a test."""
    monkeypatch.setattr(registry, "_files", {})

    def load(file: Path, text: str) -> Path:
        file.write_text(text)
        load_plugin(file)
        return file

    yield load
    # the toolkit's own stay: a module that was imported meanwhile registers but once
    for known in (*METHODS.kinds.values(), EXPORTS, ATTACKS, PROTOCOLS, CRITERIA):
        for name, kind in list(known._classes.items()):
            if kind.__module__.startswith("erasure_plugin_"):
                del known._classes[name]


class Stopped(BaseException):
    """What ends a training between two steps, as a signal may: nothing of ours catches it."""


@pytest.fixture
def stopped_after(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str | None, int], AbstractContextManager[None]]:
    """Within it a run keeps its state at each step and ends after this one of a stage, or any."""

    @contextmanager
    def until(stage: str | None, step: int) -> Iterator[None]:
        save = Run.save_state

        def save_and_stop(run: Run, now: str, done: int, *rest: Any, **more: Any) -> Any:
            file = save(run, now, done, *rest, **more)
            if done == step and stage in (None, now):
                raise Stopped
            return file

        with monkeypatch.context() as patched:
            patched.setattr(Run, "save_state", save_and_stop)
            patched.setattr(Run, "is_due", True)
            with pytest.raises(Stopped):
                yield

    return until


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Program:
    """Run `erasure` with arguments: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["erasure", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run
