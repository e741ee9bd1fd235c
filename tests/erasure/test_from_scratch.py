"""`erasure train`: a classifier from random weights, resumed, opened, retrained, and bad input."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from networks import LABELS, image_folder
from safetensors.torch import load_file

from erasure.commandline.main import main
from erasure.config import resolve
from erasure.errors import ErasureError, SettingError
from erasure.forgetting import Data, forget
from erasure.from_scratch import levels, train
from erasure.models.classifier.load import load_classifier
from erasure.registry import METHODS
from erasure.training.optimisers import Optimiser
from erasure.training.run import Run
from erasure_datasets.labelled import Labelled

RESNET = {"arguments": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]}, "size": 16}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "images")


def test_a_small_resnet_learns_and_is_retrained_by_its_recipe(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "resnet"
    model = train("resnet18", data=str(images), out=out, epochs=12, batch_size=8, **RESNET)
    told = json.loads((out / "training.json").read_text())
    assert told["accuracy"] == {"train": 1.0, "test": 1.0}
    assert told["images"] == {"train": 32, "test": 8}
    assert model.labels == tuple(sorted(LABELS))
    assert model.network.conv1.kernel_size == (3, 3)
    assert int(model.buffers()["bn1.num_batches_tracked"]) == 12 * 4
    config = json.loads((out / "config.json").read_text())
    assert config["stem"] == "cifar"
    # the usual three lines of those who have timm alone
    plain = timm.create_model("resnet18", num_classes=4, **config["model_args"])
    plain.conv1 = torch.nn.Conv2d(3, plain.conv1.out_channels, 3, 1, 1, bias=False)
    plain.maxpool = torch.nn.Identity()
    plain.load_state_dict(load_file(out / "model.safetensors"))
    x = model.prepare(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with torch.no_grad():
        assert torch.allclose(plain.eval()(x), model.forward(x)[1], atol=1e-6)
    found = forget(
        str(out), "retrain", [["red"]], out=tmp_path / "run", watch_every=0, epochs=1,
        data=Data(str(images), images=8, test_images=2),
    )  # fmt: skip
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["settings"]["recipe"] == "one-cycle"
    assert record["sources"]["batch_size"] == "model preset"
    assert int(found.model.buffers()["bn1.num_batches_tracked"]) == 3  # 24 images, 8 a step
    # a second command of the same words finds it finished, another one a different run
    assert train("resnet18", data=str(images), out=out, epochs=12, batch_size=8, **RESNET)
    with pytest.raises(ErasureError, match=r"holds a different run: its settings\.epochs is 12"):
        train("resnet18", data=str(images), out=out, epochs=13, batch_size=8, **RESNET)


def test_interrupted_and_resumed_in_the_same_bits(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(name: str) -> dict[str, torch.Tensor]:
        train("resnet18", data=str(images), out=tmp_path / name, epochs=2, batch_size=8, **RESNET)
        return load_file(tmp_path / name / "model.safetensors")

    whole, save = trained("whole"), Run.save_state

    def save_then_stop(self: Run, stage: str, step: int, *rest: Any, **more: Any) -> Path:
        file = save(self, stage, step, *rest, **more)
        if step == 3:
            raise KeyboardInterrupt
        return file

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save_state", save_then_stop)
        patch.setattr(Run, "is_due", True)
        with pytest.raises(KeyboardInterrupt):
            trained("cut")
    assert not (tmp_path / "cut" / "config.json").exists()
    resumed = trained("cut")
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
    assert not (tmp_path / "cut" / "training" / "state").exists()


def test_a_vit_gets_patches_that_fit(images: Path, tmp_path: Path) -> None:
    model = train(
        "vit_tiny_patch16_224", data=str(images), out=tmp_path / "vit", quick=True, batch_size=16,
        arguments={"embed_dim": 32, "depth": 1, "num_heads": 2},
    )  # fmt: skip
    assert model.network.patch_embed.patch_size == (4, 4)
    assert (model.transform.size, len(model.buffers())) == (32, 0)


def test_levels_are_the_pictures_own() -> None:
    pictures = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    pictures[2:, 0] = 255
    pictures[:, 1] = 51
    mean, spread = levels(Labelled(pictures, torch.zeros(4).long(), tuple("abcd")))
    assert mean == (0.5, 0.2, 0.0)
    assert spread[0] == pytest.approx(0.5, abs=0.02)
    assert spread[1:] == (0.01, 0.01)


def test_one_cycle_rises_and_falls() -> None:
    rates = [Optimiser("sgd", cosine=True, warmup=0.2).rate(step, 100) for step in range(100)]
    top = rates.index(max(rates))
    assert (top, rates[20]) == (20, 1.0)
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] < 0.001
    assert Optimiser("sgd", cosine=True).rate(50, 100) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("word", "changes", "message"),
    [
        ("resnet19", {}, "timm has no model 'resnet19'"),
        ("torchvision:resnet19", {}, "torchvision has no classifier"),
        ("resnet18", {"size": 4}, "size must be a whole number from 8 to 1024; got 4"),
        ("resnet18", {"stem": "small"}, "stem must be own or cifar; got 'small'"),
        ("convnext_atto", {"stem": "cifar"}, "convnext_atto cannot have the stem cifar"),
        ("resnet18", {"arguments": {"file": "x"}}, "model_args may not hold 'file'"),
        ("resnet18", {"arguments": {"channels": [8]}}, "resnet18 does not take pictures of 32"),
        ("resnet18", {"arguments": {"layers": "x"}}, "resnet18 cannot be built"),
        ("resnet18", {"epochs": 0}, "OneCycle.epochs must be at least 1"),
        ("resnet18", {"epoch": 3}, "OneCycle has no setting 'epoch'"),
        ("resnet18", {"data": "nowhere"}, "there is no folder nowhere"),
        ("resnet18", {"images": -1}, "images must be a whole number from 0"),
        ("resnet18", {"batch_size": 1, **RESNET}, "OneCycle.batch_size must be at least 2"),
    ],
)
def test_bad_input(word: str, changes: dict, message: str, images: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"data": str(images), "out": tmp_path / "out", **changes}
    with pytest.raises(ErasureError, match=message):
        train(word, **given)
    assert not (tmp_path / "out").exists()


def test_one_class_is_too_few(tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images")
    for name in LABELS[1:]:
        for file in (images / name).iterdir():
            file.unlink()
        (images / name).rmdir()
    with pytest.raises(SettingError, match=r"at least two classes; .* has 'red'"):
        train("resnet18", data=str(images), out=tmp_path / "out")


def test_on_the_command_line(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    words = f"train resnet18 --data {images} --size 16 --argument channels=8,8,16,16 --quick"
    words += f" --argument layers=1,1,1,1 --batch-size 16 --out {tmp_path / 'out'}"
    monkeypatch.setattr("sys.argv", ["erasure", *words.split()])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "32 train images: " in capsys.readouterr().out
    assert load_classifier(str(tmp_path / "out")).network.layer4[0].conv1.out_channels == 16
    monkeypatch.setattr("sys.argv", ["erasure", *words.split(), "--argument", "depth"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "argument must be NAME=VALUE; got 'depth'" in capsys.readouterr().err


def test_settings_of_one_recipe_are_none_of_the_other() -> None:
    kind: Any = METHODS.get("classifier", "retrain")
    trained = {"recipe": "one-cycle"}
    with pytest.raises(SettingError, match=r"^Retrain\.epochs has no effect without recipe one-c"):
        resolve(kind, given={"epochs": 3}, quick=True, presets={})
    with pytest.raises(SettingError, match=r"^Retrain\.steps has no effect without recipe suite"):
        resolve(kind, given={"steps": 3}, quick=True, presets=trained)
    assert resolve(kind, given={"epochs": 3}, quick=False, presets=trained)[0].epochs == 3
    assert resolve(kind, given={"steps": 3}, quick=True, presets={})[0].epochs == 1
