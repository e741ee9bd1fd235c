"""Miniature classifiers of three libraries, and a folder of images of one colour each."""

from pathlib import Path

import timm
import torch
import torchvision
from PIL import Image
from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessor,
    ViTConfig,
    ViTForImageClassification,
)

from erasure.exports.writing.saving import save_classifier
from erasure.files.storage import write_json, write_tensors
from erasure.models.classifier.classifier import Classifier, reinitialise
from erasure.models.classifier.transform import Transform

LABELS = ("red", "green", "blue", "grey")
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 220), "grey": (128,) * 3}
DATA = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0}


def timm_folder(folder: Path, **changes: object) -> Path:
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2,
                 "num_heads": 2, **changes}  # fmt: skip
    return _plain_folder(folder, "vit_tiny_patch16_224", arguments, timm.create_model)


def vit_base_folder(folder: Path) -> Path:
    """timm's vit_base_patch16_224 in its own shape: 86 M random weights, 224 px."""
    return _plain_folder(folder, "vit_base_patch16_224", {}, timm.create_model, size=224)


def torchvision_folder(folder: Path) -> Path:
    arguments = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2,
                 "hidden_dim": 32, "mlp_dim": 64}  # fmt: skip

    def build(_word: str, **options: object) -> nn.Module:
        return torchvision.models.VisionTransformer(**options)

    return _plain_folder(folder, "torchvision:VisionTransformer", arguments, build)


def resnet_folder(folder: Path) -> Path:
    """timm's miniature ResNet, whose BatchNorm has seen a few pictures."""
    return _plain_folder(folder, "test_resnet", {}, _with_statistics(timm.create_model))


def torchvision_resnet_folder(folder: Path) -> Path:
    def build(_word: str, **options: int) -> nn.Module:
        return torchvision.models.resnet18(**options)

    arguments = {"width_per_group": 64}
    return _plain_folder(folder, "torchvision:resnet18", arguments, _with_statistics(build))


def convnext_folder(folder: Path) -> Path:
    """transformers' ConvNeXt."""
    torch.manual_seed(0)
    network = ConvNextForImageClassification(
        ConvNextConfig(
            hidden_sizes=[8, 8, 16, 32], depths=[1, 1, 1, 1], image_size=32,
            num_labels=len(LABELS), id2label=dict(enumerate(LABELS)),
        )
    )  # fmt: skip
    network.save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0).save_pretrained(folder)
    return folder


def _with_statistics(build):
    """The network as `build` makes it, after some batches in training mode."""

    def built(word: str, **options: object) -> nn.Module:
        network = build(word, **options).train()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for _ in range(20):
                network(torch.randn(8, 3, 32, 32, generator=generator))
        return network

    return built


def _plain_folder(folder: Path, word: str, arguments: dict, build, size: int = 32) -> Path:
    torch.manual_seed(0)
    network = build(word, num_classes=len(LABELS), **arguments)
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        reinitialise(network, torch.Generator().manual_seed(0))
    folder.mkdir(parents=True)
    config = {"architecture": word, "num_classes": len(LABELS), "label_names": list(LABELS),
              "model_args": arguments,
              "pretrained_cfg": {**DATA, "input_size": [3, size, size]}}  # fmt: skip
    write_json(folder / "config.json", config)
    write_tensors(folder / "model.safetensors", network.state_dict())
    return folder


def transformers_folder(folder: Path) -> Path:
    torch.manual_seed(0)
    network = ViTForImageClassification(
        ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            image_size=32, patch_size=8, num_labels=len(LABELS),
            id2label=dict(enumerate(LABELS)), label2id={n: i for i, n in enumerate(LABELS)},
        )
    )  # fmt: skip
    model = Classifier(
        network, name="made", labels=LABELS, library="transformers",
        transform=Transform(32, (0.5,) * 3, (0.5,) * 3),
    )  # fmt: skip
    save_classifier(model, folder)
    return folder


def image_folder(folder: Path, per_class: int = 10) -> Path:
    """CLASS/*.png: one colour each, a little different from image to image."""
    rng = torch.Generator().manual_seed(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            noise = torch.randint(-30, 30, (32, 32, 3), generator=rng)
            pixels = (torch.tensor(colour) + noise).clamp(0, 255).byte()
            Image.fromarray(pixels.numpy()).save(folder / name / f"{number}.png")
    return folder
