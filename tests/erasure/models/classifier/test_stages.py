"""The stages of five sorts of network, and their features against each one's own computation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import (
    LABELS,
    convnext_folder,
    resnet_folder,
    timm_folder,
    torchvision_folder,
    transformers_folder,
)
from torch import nn

from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.load import load_classifier
from erasure.models.classifier.stages import HEAD, stage_features, stage_names
from erasure.models.classifier.transform import Transform

IMAGES = torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()


@pytest.mark.parametrize(
    ("make", "last", "count"),
    [
        (timm_folder, "blocks.1", 2),
        (torchvision_folder, "encoder.layers.encoder_layer_1", 2),
        (transformers_folder, "vit.layers.1", 2),
        (resnet_folder, "layer4", 4),
        (convnext_folder, "convnext.encoder.stages.3", 4),
    ],
)
def test_every_architecture_has_stages(
    make: Callable[[Path], Path], last: str, count: int, tmp_path: Path
) -> None:
    model = load_classifier(str(make(tmp_path / "model")))
    names = stage_names(model)
    assert names[-1] == last
    assert len(names) >= count
    found = stage_features(model, IMAGES, batch_size=2)
    assert list(found) == [*names, HEAD]
    assert {len(features) for features in found.values()} == {len(IMAGES)}
    torch.testing.assert_close(found[HEAD], model.features(IMAGES), rtol=1e-4, atol=1e-5)


def test_features_are_means_over_places(tmp_path: Path) -> None:
    vit = load_classifier(str(timm_folder(tmp_path / "vit")))
    network: Any = vit.network
    with torch.no_grad():
        tokens = network.patch_embed(vit.prepare(IMAGES))
        tokens = network.blocks(network.norm_pre(network._pos_embed(tokens)))
    found = stage_features(vit, IMAGES)["blocks.1"]
    torch.testing.assert_close(found, tokens.mean(1), rtol=1e-3, atol=1e-5)
    resnet = load_classifier(str(resnet_folder(tmp_path / "resnet")))
    network = resnet.network
    with torch.no_grad():
        maps = network.forward_features(resnet.prepare(IMAGES))
    found = stage_features(resnet, IMAGES)["layer4"]
    torch.testing.assert_close(found, maps.mean((2, 3)), rtol=1e-3, atol=1e-5)


def test_a_network_without_stages_has_what_its_head_reads() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, len(LABELS)))
    how = Transform(32, (0.5,) * 3, (0.5,) * 3)
    model = Classifier(network, name="one", labels=LABELS, transform=how, library="timm")
    assert stage_names(model) == []
    assert list(stage_features(model, IMAGES)) == [HEAD]
