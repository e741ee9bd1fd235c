"""The digest of a model's weights: the same for the same weights, another for any change."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from erasure.models.classifier.load import load_classifier
from erasure.models.diffusion.load import load_model
from erasure.models.digest import digest_of


def test_it_is_of_the_untouched_weights_whatever_the_layout(sd1: Path, tmp_path: Path) -> None:
    model = load_model(str(sd1))
    digest = digest_of(model)
    assert len(digest) == 64
    model.pipeline.save_pretrained(tmp_path / "sharded", max_shard_size="30KB")
    assert len(list((tmp_path / "sharded" / "unet").glob("*-of-*.safetensors"))) > 1
    assert digest_of(load_model(str(tmp_path / "sharded"))) == digest
    weight = model.parameters()["unet.conv_in.weight"]
    model.remember(["unet.conv_in.weight"])
    with torch.no_grad():
        weight.add_(1)
    assert digest_of(model) == digest
    model.originals.clear()
    assert digest_of(model) != digest


def test_a_change_of_any_weight_is_seen(sd1: Path) -> None:
    model = load_model(str(sd1))
    seen = {digest_of(model)}
    for name in ("unet.conv_out.bias", next(iter(model.parameters()))):
        with torch.no_grad():
            model.parameters()[name].view(-1)[-1].mul_(1 + 1e-6)
        seen.add(digest_of(model))
    square = model.parameters()["unet.time_embedding.linear_2.weight"]
    with torch.no_grad():
        square.copy_(square.T.clone())
    seen.add(digest_of(model))
    assert len(seen) == 4


def test_models_of_different_weights_differ(sd1: Path, sd2: Path) -> None:
    assert digest_of(load_model(str(sd1))) != digest_of(load_model(str(sd2)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_any_precision_has_one(sd1: Path, dtype: torch.dtype) -> None:
    model = load_model(str(sd1), dtype=dtype)
    assert digest_of(model) == digest_of(load_model(str(sd1), dtype=dtype))


def test_a_classifiers_labels_and_preparation_count() -> None:
    model = load_classifier("pocket-vit")
    digest = digest_of(model)
    plain, labels = model.transform, model.labels
    for changed in (replace(plain, mean=(0.1, 0.2, 0.3)), replace(plain, interpolation="bicubic")):
        model.transform = changed
        assert digest_of(model) != digest
    model.transform, model.labels = plain, labels[::-1]
    assert digest_of(model) != digest
    model.labels = labels
    assert digest_of(model) == digest
