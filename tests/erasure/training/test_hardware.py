"""What a run computes on: refusals in one line, and settings that change speed but no result."""

import json
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from contract import TINY, Case
from torch import Tensor

from erasure.commandline.main import main
from erasure.erasing import erase
from erasure.errors import DeviceError, SettingError
from erasure.methods.diffusion.esd import ESD
from erasure.models.diffusion.load import load_model
from erasure.opening import open_run
from erasure.training.hardware import Hardware

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is present")


def command(model: Path, out: Path, *more: str) -> list[str]:
    """The command line of a tiny ESD."""
    words = [
        "erasure",
        "erase",
        "esd",
        "--model",
        str(model),
        "--concept",
        "cat",
        "--out",
        str(out),
    ]
    words += ["--kind", "object", "--anchor", "dog"]
    for name, value in TINY["esd"].items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return [*words, *more]


def said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, words: list[str]
) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().err


@needs_no_gpu
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cuda"], "device cuda was asked for, and torch"),
        (["--device", "cuda:1"], "sees 0 CUDA devices; use --device cpu"),
        (["--device", "tpu"], "device must be auto, cpu, cuda, cuda:N or mps; got 'tpu'"),
        (["--mixed-precision", "fp16"], "mixed_precision fp16 needs a CUDA device"),
        (["--mixed-precision", "fp8"], "mixed_precision must be one of no, bf16, fp16; got 'fp8'"),
        (["--use-8bit-adam"], "use_8bit_adam needs a CUDA device"),
        (
            ["--enable-xformers-memory-efficient-attention"],
            "enable_xformers_memory_efficient_attention needs a CUDA device",
        ),
    ],
)
def test_what_a_machine_lacks_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, sd1: Path, tmp_path: Path,
    options: list[str], message: str,
) -> None:  # fmt: skip
    code, err = said(monkeypatch, capsys, command(sd1, tmp_path / "run", *options))
    assert (code, err.count("\n")) == (2, 1), err
    assert message in err
    assert not (tmp_path / "run").exists()


def test_one_named_gpu_is_not_for_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingError, match="cuda:1 is one for 2 processes; with --device cuda"):
        Hardware(device="cuda:1")


def test_out_of_memory_is_one_line_and_the_run_goes_on_with_checkpointing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, sd1: Path, tmp_path: Path
) -> None:
    whole = Case("esd", sd1).run(tmp_path / "whole")
    import erasure.methods.diffusion.esd as module
    from erasure.training.run import Run

    real, calls = module.points, []

    def too_much(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 ...")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "points", too_much)
        patch.setattr(Run, "is_due", True)
        code, err = said(patch, capsys, command(sd1, tmp_path / "run"))
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert "too little memory (CUDA out of memory)" in last
    for word in ("--gradient-checkpointing", "--batch-size", "--use-8bit-adam"):
        assert word in last
    assert (tmp_path / "run" / "state" / "fit.safetensors").is_file()
    words = command(sd1, tmp_path / "run", "--gradient-checkpointing")
    assert said(monkeypatch, capsys, words)[0] == 0
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["gradient_checkpointing"] is True
    resumed = Case("esd", sd1).run(tmp_path / "run")
    for name, tensor in whole.edit.tensors.items():
        assert torch.allclose(tensor, resumed.edit.tensors[name], atol=1e-6), name


def test_another_precision_is_another_run(sd1: Path, tmp_path: Path) -> None:
    from erasure.errors import RunError

    Case("esd", sd1).run(tmp_path / "run")
    with pytest.raises(RunError, match="its mixed_precision is 'no', this one's is 'bf16'"):
        Case("esd", sd1).run(tmp_path / "run", mixed_precision="bf16")


@pytest.mark.parametrize("select", ["xattn", "text"])
def test_checkpointing_computes_the_same_gradients_and_keeps_less(sd1: Path, select: str) -> None:
    model = load_model(str(sd1))
    weights = list(model.weights(select).values())
    for weight in weights:
        weight.requires_grad_(True)
    z_t, t = (
        torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)),
        torch.tensor([9, 9]),
    )
    found = []
    for on in (False, True):
        kept = []

        def keep(tensor: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(tensor.numel())
            return tensor

        with model.gradient_checkpointing(on):
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = model.predict(z_t, t, model.encode(["a cat", "a dog"])).square().mean()
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        found.append((gradients, sum(kept)))
    assert found[1][1] < 0.7 * found[0][1]
    for plain, again in zip(found[0][0], found[1][0], strict=True):
        assert (plain is None) == (again is None)
        assert plain is None or torch.allclose(plain, again, atol=1e-7)


@pytest.mark.parametrize("method", ["esd", "salun", "gs-lora"])
def test_channels_last_changes_no_result(method: str, sd1: Path, tmp_path: Path) -> None:
    plain = Case(method, sd1).run(tmp_path / "plain")
    fast = Case(method, sd1).run(tmp_path / "fast", channels_last=True, allow_tf32=True)
    for name, tensor in plain.edit.tensors.items():
        close = (tensor - fast.edit.tensors[name]).abs() < 1e-4  # Adam turns rounding into steps
        assert close.float().mean() > 0.95, name


@pytest.mark.parametrize(
    ("method", "family"),
    [
        ("esd", "sdxl"),
        ("gs-lora", "sdxl"),
        pytest.param("salun", "sd2", marks=pytest.mark.slow),
        pytest.param("uproot", "sd1", marks=pytest.mark.slow),
        ("doco", "sd1"),
        pytest.param("sfd", "sd1", marks=pytest.mark.slow),
        pytest.param("advunlearn", "sdxl", marks=pytest.mark.slow),
    ],
)
def test_bf16_learns_in_float32_and_leaves_the_rest_alone(
    method: str, family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The same bits each time, and the rest of the model to the last bit what it was."""
    case = Case(method, request.getfixturevalue(family))
    result = case.run(tmp_path / "run", mixed_precision="bf16")
    base = open_run(result.folder, edited=False).parameters()
    shapes = result.edit.shapes()
    assert shapes
    for name, weight in result.model.parameters().items():
        assert weight.dtype == torch.float32
        assert name in shapes or torch.equal(weight, base[name]), name
    again = case.run(tmp_path / "again", mixed_precision="bf16")
    for name, tensor in result.edit.tensors.items():
        assert torch.equal(tensor, again.edit.tensors[name]), name
        if not tensor.is_floating_point():  # where, of what few elements changed
            continue
        assert tensor.dtype == torch.float32
        # steps this small are lost where weights are kept in bfloat16
        assert not torch.equal(tensor, tensor.to(torch.bfloat16).float()), name


def test_attention_is_torchs_own(sd1: Path, sdxl: Path) -> None:
    for folder in (sd1, sdxl):
        pipeline = load_model(str(folder)).pipeline
        kinds = {type(processor).__name__ for processor in pipeline.unet.attn_processors.values()}
        assert kinds == {"AttnProcessor2_0"}
        assert pipeline.text_encoder.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_memorised_prompts_ask_no_encoder(family: str, request: pytest.FixtureRequest) -> None:
    model = load_model(str(request.getfixturevalue(family)))
    texts, calls = ["", "a cat", "a dog", "a tree"], []
    want = model.encode(texts)
    for tower in model.towers:
        getattr(model.pipeline, tower).register_forward_hook(lambda *_: calls.append(1))
    with model.memorised(texts):
        calls.clear()
        assert torch.allclose(model.encode(texts[::-1]), want.flip(0), atol=1e-6)
        assert not calls
        model.encode(["a bird"])
        assert len(calls) == len(model.towers)
    model.remember(list(model.weights("text")))
    for weight in model.weights("text.mlp").values():
        weight.data.mul_(0.5)
    with model.memorised(texts):
        with model.original():
            assert torch.allclose(model.encode(texts), want, atol=1e-6)
        assert not torch.allclose(model.encode(texts)[1:], want[1:], atol=1e-4)


def test_method_settings_and_hardware_share_no_name() -> None:
    from dataclasses import fields

    from contract import every_method, settings_of

    from erasure.training.hardware import Hardware

    for method in every_method():
        assert not settings_of(method) & {item.name for item in fields(Hardware)}


def test_python_callers_get_the_same_error(sd1: Path, tmp_path: Path, monkeypatch) -> None:
    def too_much(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried")

    monkeypatch.setattr(ESD, "erase", too_much)
    with pytest.raises(DeviceError, match="cpu has too little memory"):
        erase(str(sd1), "esd", ["cat"], kind="object", out=tmp_path / "run")


def test_a_model_that_was_handed_over_computes_as_before(
    sd1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    model = load_model(str(sd1))
    parts = model.pipeline.unet, model.pipeline.vae
    before = [dict(part.attn_processors) for part in parts]
    hardware = Hardware(compile=True, channels_last=True)
    object.__setattr__(hardware, "enable_xformers_memory_efficient_attention", True)
    monkeypatch.setattr(
        model.pipeline, "enable_xformers_memory_efficient_attention",
        lambda: [part.set_attn_processor(AttnProcessor()) for part in parts],
    )  # fmt: skip
    for error in (None, KeyError):
        with suppress(KeyError), hardware.at_work(model):
            assert parts[0]._compiled_call_impl is not None
            assert not parts[0].conv_in.weight.is_contiguous()
            assert {type(p) for p in parts[0].attn_processors.values()} == {AttnProcessor}
            if error:
                raise error
        assert parts[0]._compiled_call_impl is None
        assert all(weight.is_contiguous() for weight in parts[0].parameters())
        for part, own in zip(parts, before, strict=True):
            assert all(part.attn_processors[name] is own[name] for name in own)
