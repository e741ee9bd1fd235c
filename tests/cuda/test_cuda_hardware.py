"""What a card makes possible or has to survive: memory, a kill, libraries of its own, an export."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from contract import TINY
from diffusers import DiffusionPipeline
from steps import FAMILIES, Record, apart, close, erase_two_steps, update

from erasure.edit import Edit
from erasure.erasing import Result, erase
from erasure.errors import DeviceError
from erasure.exports.exporting import export
from erasure.models.diffusion import latent_diffusion
from erasure.models.diffusion.load import load_model
from erasure.opening import open_run

TRAINED = [method for method, settings in TINY.items() if "steps" in settings]


def distance(one: Result, other: Result) -> float:
    base = open_run(one.folder, edited=False).parameters()
    return apart(update(one.edit, base), update(other.edit, base))


@pytest.mark.parametrize("method", TRAINED)
def test_checkpointing_changes_no_update(
    method: str, device: str, sd1: Path, tmp_path: Path, record_property: Record
) -> None:
    plain = erase_two_steps(method, sd1, tmp_path / "plain", device=device)
    less = erase_two_steps(
        method, sd1, tmp_path / "less", device=device, gradient_checkpointing=True
    )
    record_property("apart", distance(plain, less))
    assert distance(plain, less) < close(method)


@pytest.mark.parametrize("method", TRAINED)
def test_killed_and_resumed(
    method: str, device: str, sd1: Path, tmp_path: Path, record_property: Record
) -> None:
    """A process killed by SIGKILL after its first step, then the same call again."""
    whole = erase_two_steps(method, sd1, tmp_path / "whole", device=device)
    out = tmp_path / "killed"
    program = f"""
import os, signal, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from pathlib import Path
import torch
import erasure.training.run as run
from steps import erase_two_steps
torch.backends.cudnn.allow_tf32 = False
save = run.Run.save_state
def save_then_die(self, stage, step, *rest, **more):
    file = save(self, stage, step, *rest, **more)
    if stage in ("fit", "request 0") and step == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return file
run.Run.save_state = save_then_die
run.Run.is_due = True
erase_two_steps({method!r}, Path({str(sd1)!r}), Path({str(out)!r}), device={device!r})
"""
    died = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip
    assert died.returncode == -9, died.stderr
    assert (out / "state").is_dir()
    resumed = erase_two_steps(method, sd1, out, device=device)
    assert not (out / "state").exists()
    record_property("apart", distance(whole, resumed))
    assert distance(whole, resumed) < close(method)


@contextmanager
def little_memory(device: str, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within it the card gives no more than it has given; a CPU says so without being short."""
    if device == "cpu":

        def too_much(*_: object, **__: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 ...")

        patch.setattr(latent_diffusion.LatentDiffusion, "predict", too_much)
        yield
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_too_little_memory_is_one_line_that_helps(
    device: str, sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(sd1), device=device)  # before memory is short
    settings = {**TINY["esd"], "batch_size": 4096 if device == "cuda" else 2, "device": device}
    with (
        monkeypatch.context() as patch,
        little_memory(device, patch),
        pytest.raises(DeviceError) as said,
    ):
        erase(model, "esd", ["cat"], kind="object", out=tmp_path / "run", **settings)
    text = str(said.value)
    assert f"{device}" in text
    assert "has too little memory (CUDA out of memory). Less is needed with" in text
    assert "\n" not in text
    erase_two_steps("esd", sd1, tmp_path / "after", device=device)


@pytest.mark.parametrize(
    ("setting", "package"),
    [
        ("use_8bit_adam", "bitsandbytes"),
        ("enable_xformers_memory_efficient_attention", "xformers"),
    ],
)
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_cards_own_library(
    setting: str, package: str, precision: str, device: str, sd1: Path, tmp_path: Path,
    record_property: Record,
) -> None:  # fmt: skip
    if device != "cuda":
        pytest.skip(f"{package} needs a CUDA card")
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    how = {"device": device, "mixed_precision": precision}
    plain = erase_two_steps("esd", sd1, tmp_path / "plain", **how)
    other = erase_two_steps("esd", sd1, tmp_path / "other", **how, **{setting: True})
    record_property("apart", distance(plain, other))
    # another attention rounds otherwise, and eight bits hold a moment to a hundredth
    assert distance(plain, other) < 0.5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_an_export_opens_in_plain_diffusers(
    family: str, precision: str, device: str, families: dict[str, Path], tmp_path: Path
) -> None:
    result = erase_two_steps(
        "esd", families[family], tmp_path / "run", device=device, mixed_precision=precision
    )
    out = export(result.folder, tmp_path / "out")
    pipeline = DiffusionPipeline.from_pretrained(out).to(device)
    for name, weight in pipeline.unet.named_parameters():
        assert torch.equal(weight, result.model.parameters()[f"unet.{name}"]), name
    image = pipeline("a cat", num_inference_steps=2, output_type="pt").images
    assert image.device.type == device
    assert torch.isfinite(image).all()
    edited = open_run(result.folder, device=device).parameters()
    assert all(torch.equal(edited[n], w) for n, w in result.model.parameters().items())
    assert Edit.load(result.folder).shapes() == result.edit.shapes()
