"""Miniatures of the kinds of image classifiers, each as a folder that its own library opens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from erasure.files.storage import write_json, write_tensors
from erasure.models.classifier.classifier import NORMS
from erasure.models.classifier.config import parse_config
from erasure.models.classifier.load import empty_network

LABELS = ("red", "green", "blue", "grey")
SIDE = 32
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE,
       "intermediate_size": 64, "patch_size": 8}  # fmt: skip
Build = Callable[[Path], None]


def plain(word: str, stem: str = "own", **arguments: Any) -> Build:
    """Of timm, or torchvision:NAME."""

    def build(folder: Path) -> None:
        record: dict[str, Any] = {
            "architecture": word, "num_classes": len(LABELS), "label_names": list(LABELS),
            "model_args": arguments, "stem": stem,
            "pretrained_cfg": {"input_size": [3, SIDE, SIDE], "mean": [0.5] * 3, "std": [0.5] * 3,
                               "crop_pct": 1.0},
        }  # fmt: skip
        torch.manual_seed(0)
        network: nn.Module = empty_network(parse_config(record, word))  # type: ignore[arg-type]
        _see_pictures(network)
        folder.mkdir(parents=True)
        write_json(folder / "config.json", record)
        write_tensors(folder / "model.safetensors", network.state_dict())

    return build


def hugging_face(kind: str, **sizes: Any) -> Build:
    """Of transformers: the config and the model of a kind, and a processor."""

    def build(folder: Path) -> None:
        import transformers

        names = {"num_labels": len(LABELS), "id2label": dict(enumerate(LABELS))}
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**sizes, **names)
        network = getattr(transformers, f"{kind}ForImageClassification")(config)
        _see_pictures(network)
        network.save_pretrained(folder)
        processor = transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE})
        processor.save_pretrained(folder)

    return build


@torch.no_grad()
def _see_pictures(network: nn.Module) -> None:
    """Let BatchNorm see some, so that its statistics are not those of nothing.

    A head of zeros, as torchvision's ViT begins with, hides the blocks from every gradient.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)
    if any(isinstance(module, NORMS) for module in network.modules()):
        generator = torch.Generator().manual_seed(0)
        network.train()
        for _ in range(10):
            network(torch.randn(8, 3, SIDE, SIDE, generator=generator))


MINIATURES: dict[str, Build] = {
    "timm ViT": plain("vit_tiny_patch16_224", img_size=SIDE, patch_size=8, embed_dim=32, depth=2,
                      num_heads=2),
    "timm ResNet-18, CIFAR stem": plain("resnet18", "cifar", channels=[8, 8, 16, 16],
                                        layers=[1, 1, 1, 1]),
    "timm ConvNeXt": plain("convnext_atto", depths=[1, 1, 1, 1], dims=[8, 8, 16, 16]),
    "timm Swin": plain("swin_tiny_patch4_window7_224", img_size=SIDE, patch_size=4, window_size=4,
                       embed_dim=16, depths=[1, 1], num_heads=[2, 2]),
    "torchvision ViT": plain("torchvision:VisionTransformer", image_size=SIDE, patch_size=8,
                             num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64),
    "torchvision ShuffleNet": plain("torchvision:shufflenet_v2_x0_5"),
    "transformers ViT": hugging_face("ViT", **VIT),
    "transformers ResNet": hugging_face("ResNet", embedding_size=8, hidden_sizes=[8, 16],
                                        depths=[1, 1], layer_type="basic"),
    "transformers ConvNeXt": hugging_face("ConvNext", hidden_sizes=[8, 8, 16, 16],
                                          depths=[1, 1, 1, 1], image_size=SIDE),
    "transformers Swin": hugging_face("Swin", image_size=SIDE, patch_size=4, embed_dim=16,
                                      depths=[1, 1], num_heads=[2, 2], window_size=4),
}  # fmt: skip
