"""Fixtures of all tests: miniature models, plug-ins, the command line, a training that ends."""

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
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from miniatures import build_flux, build_miniature, build_sd3, tokenizer
from transformers import T5Config, T5EncoderModel

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
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_flux(tmp_path_factory.mktemp("models") / "flux", is_dev=True)


@pytest.fixture(scope="session")
def schnell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_flux(tmp_path_factory.mktemp("models") / "schnell", is_dev=False)


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
