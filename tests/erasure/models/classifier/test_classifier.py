"""Classifiers of three libraries behave alike: features, blocks, originals, folders."""

from pathlib import Path

import pytest
import timm
import torch
from networks import (
    LABELS,
    convnext_folder,
    resnet_folder,
    timm_folder,
    torchvision_folder,
    torchvision_resnet_folder,
    transformers_folder,
)
from transformers import ViTForImageClassification

from erasure.errors import DivergedError, ModelError, SettingError
from erasure.exports.writing.saving import save_classifier
from erasure.models.classifier.blocks import groups
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.load import load_classifier
from erasure.models.lora import Adapter, deltas, linears, merge

MAKERS = {"timm": timm_folder, "torchvision": torchvision_folder, "hf": transformers_folder}


@pytest.fixture(params=MAKERS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Classifier:
    return load_classifier(str(MAKERS[request.param](tmp_path / "model")))


def images(count: int = 3, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def every_name(model: Classifier) -> list[str]:
    return [name for group in groups(model) for name in group]


def test_the_same_shape_for_every_library(model: Classifier) -> None:
    assert model.labels == LABELS
    features, logits = model.forward(model.prepare(images()))
    assert features.shape == (3, 32)
    assert logits.shape == (3, 4)
    assert torch.allclose(model.predict(images()).sum(1), torch.ones(3))
    assert [len(group) for group in groups(model)] == [2, 2]
    if model.library == "torchvision":  # its attention reads the weights past the module
        with pytest.raises(SettingError, match="place must be ffn"):
            groups(model, "attention")
    else:
        both, only = (sum(map(len, groups(model, place))) for place in ("both", "attention"))
        assert both == 4 + only > 4


def test_answers_that_are_not_finite_name_no_class(model: Classifier) -> None:
    with torch.no_grad():
        for weight in model.weights("head").values():
            weight.fill_(torch.finfo(torch.float32).max)
    with pytest.raises(DivergedError, match="answers that are not finite"):
        model.predict(images())
    with torch.no_grad():
        for weight in model.weights("all").values():
            weight.fill_(torch.nan)
    with pytest.raises(DivergedError, match="answers that are not finite"):
        model.features(images())


def test_the_original_answers_beside_the_edited(model: Classifier) -> None:
    x = model.prepare(images())
    before = model.forward(x)[1]
    weights = model.weights("mlp")
    model.remember(list(weights))
    with torch.no_grad():
        for weight in weights.values():
            weight.add_(0.1)
    with model.original():
        assert torch.equal(model.forward(x)[1], before)
    assert not torch.equal(model.forward(x)[1], before)


def test_saved_and_read_again(model: Classifier, tmp_path: Path) -> None:
    save_classifier(model, tmp_path / "out")
    again = load_classifier(str(tmp_path / "out"))
    assert torch.equal(model.predict(images()), again.predict(images()))


def test_folders_open_without_us(tmp_path: Path) -> None:
    ours = load_classifier(str(timm_folder(tmp_path / "a")))
    save_classifier(ours, tmp_path / "b")
    plain = timm.create_model(f"local-dir:{tmp_path / 'b'}", pretrained=True).eval()
    x = ours.prepare(images())
    with torch.no_grad():
        assert torch.allclose(plain(x), ours.forward(x)[1], atol=1e-6)
        ours = load_classifier(str(transformers_folder(tmp_path / "c")))
        plain = ViTForImageClassification.from_pretrained(tmp_path / "c").eval()
        assert torch.allclose(plain(x).logits, ours.forward(x)[1], atol=1e-6)


@pytest.mark.parametrize("make", [resnet_folder, torchvision_resnet_folder, convnext_folder])
def test_networks_that_are_no_transformers(make, tmp_path: Path) -> None:
    ours = load_classifier(str(make(tmp_path / "model")))
    features, logits = ours.forward(ours.prepare(images()))
    assert (ours.labels, logits.shape) == (LABELS, (3, 4))
    weights = ours.weights("head")
    assert {weight.shape[0] for weight in weights.values()} == {4}
    assert next(iter(weights.values())).shape[1] == features.shape[1]
    save_classifier(ours, tmp_path / "out")
    again = load_classifier(str(tmp_path / "out"))
    assert torch.equal(again.predict(images()), ours.predict(images()))
    for name, tensor in ours.buffers().items():
        assert torch.equal(again.buffers()[name], tensor), name
    if make is not convnext_folder:
        assert ours.buffers()
        with pytest.raises(SettingError, match="has no transformer blocks"):
            groups(ours, "attention")


def test_statistics_move_only_where_they_learn(tmp_path: Path) -> None:
    ours = load_classifier(str(resnet_folder(tmp_path / "model")))
    x, statistics = ours.prepare(images()), ours.buffers()
    before = {name: tensor.clone() for name, tensor in statistics.items()}
    said = ours.forward(x)[1]
    ours.remember(list(statistics))
    with ours.learning_statistics():
        ours.forward(x)
    assert not any(torch.equal(before[name], tensor) for name, tensor in statistics.items())
    with ours.original():
        assert torch.equal(ours.forward(x)[1], said)
    assert not torch.equal(ours.forward(x)[1], said)


def test_larger_images_are_scaled_and_cut(model: Classifier) -> None:
    assert model.prepare(images(size=48)).shape == (3, 3, 32, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "no config.json"),
        (lambda f: (f / "config.json").write_text("{}"), "neither a timm architecture"),
        (lambda f: (f / "config.json").write_text("{"), "not readable"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors"),
    ],
)
def test_broken_folders_are_refused(change, message: str, tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "model")
    change(folder)
    with pytest.raises(ModelError, match=message):
        load_classifier(str(folder))


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="timm has no model"):
        load_classifier("timm:no_such_net")
    with pytest.raises(ModelError, match="model must be pocket-vit"):
        load_classifier(str(tmp_path / "none"))
    with pytest.raises(SettingError, match="no class 'violet'"):
        load_classifier(str(timm_folder(tmp_path / "model"))).indices(["violet"])


def test_adapter_merge_and_unmerge(model: Classifier) -> None:
    x, layers = model.prepare(images()), linears(model, every_name(model))
    adapter = Adapter.fresh(layers, 4, 2.0, torch.Generator().manual_seed(0))
    before = model.forward(x)[1]
    with adapter.on(model, layers):
        assert torch.allclose(model.forward(x)[1], before, atol=1e-6)  # B is zero
        with torch.no_grad():
            for matrix in adapter.up.values():
                matrix.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
        hooked = model.forward(x)[1]
        with adapter.off():
            assert torch.allclose(model.forward(x)[1], before, atol=1e-6)
        with model.original():
            assert torch.allclose(model.forward(x)[1], before, atol=1e-6)
    assert not torch.allclose(hooked, before, atol=1e-3)
    tensors = {name: matrix.detach() for name, matrix in adapter.weights().items()}
    merge(model, tensors, adapter.scale)
    assert torch.allclose(model.forward(x)[1], hooked, atol=1e-6)
    with torch.no_grad():
        for name, delta in deltas(tensors, adapter.scale).items():
            model.parameters()[name].sub_(delta)
    assert torch.allclose(model.forward(x)[1], before, atol=1e-6)
