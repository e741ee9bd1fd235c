"""GS-LoRA on a UNet: adapters in plain diffusers, one taken back, the bounded term."""

import json
from pathlib import Path

import pytest
import torch
from contract import TINY
from diffusers import StableDiffusionPipeline
from torch import Tensor

from erasure.edit import Edit
from erasure.erasing import Result, erase
from erasure.errors import EditError
from erasure.exporting import export
from erasure.opening import open_run
from erasure.undoing import undo


@pytest.fixture(scope="module")
def result(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    out = tmp_path_factory.mktemp("gs") / "run"
    return erase(
        str(sd1), "gs-lora", ["cat", "dog"], out=out, kind="object", **TINY["gs-lora"], alpha=4.0
    )


def ask(unet, condition: Tensor) -> Tensor:
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return unet(z, torch.tensor([500]), condition).sample


def test_each_request_opens_in_plain_diffusers(result: Result, sd1: Path, tmp_path: Path) -> None:
    out = export(result.folder, tmp_path / "lora", to="lora")
    assert sorted(file.name for file in out.glob("*.safetensors")) == [
        "cat.safetensors", "dog.safetensors",
    ]  # fmt: skip
    plain = StableDiffusionPipeline.from_pretrained(sd1, safety_checker=None)
    condition = result.model.encode(["a cat"])
    before = ask(plain.unet, condition)
    for name in ("cat", "dog"):
        plain.load_lora_weights(str(out), weight_name=f"{name}.safetensors", adapter_name=name)
    config = plain.unet.peft_config["cat"]
    assert (config.r, config.lora_alpha) == (8, 8)  # the scale of 0.5 is in B
    plain.set_adapters(["cat", "dog"])
    both = ask(plain.unet, condition)
    assert torch.allclose(both, ask(result.model.pipeline.unet, condition), atol=1e-5)
    assert not torch.allclose(both, before, atol=1e-5)
    plain.set_adapters(["dog"])
    only = open_run(undo(result.folder, tmp_path / "undone", concepts=["cat"]))
    assert torch.allclose(ask(plain.unet, condition), ask(only.pipeline.unet, condition), atol=1e-5)


def test_undo_keeps_what_the_others_took(result: Result, tmp_path: Path) -> None:
    undone = undo(result.folder, tmp_path / "undone", concepts=["Cat"])
    edit = Edit.load(undone)
    assert [concept.name for concept in edit.concepts] == ["dog"]
    assert json.loads((undone / "config.json").read_text())["undone"] == ["Cat"]
    assert edit.adapter("1").keys() == result.edit.adapter("1").keys()
    assert not edit.adapter("0")
    with pytest.raises(EditError, match="no request took 'bird'"):
        undo(result.folder, tmp_path / "x", concepts=["bird"])
    assert not (tmp_path / "x").exists()


def test_nothing_is_pushed_below_the_bound(sd1: Path, tmp_path: Path) -> None:
    """With a bound above 1 the forget term is never on, and a lone retain term moves nothing."""
    settings = {**TINY["gs-lora"], "bound": 2.0, "group_weight": 0.0}
    with pytest.raises(EditError, match="moves no weight"):
        erase(str(sd1), "gs-lora", ["cat"], out=tmp_path / "run", kind="object", **settings)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["erase"] for line in log] == [0.0] * 6
    assert not (tmp_path / "run" / "edit.json").exists()
