"""Load a timm classifier from its hub folder and apply it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from erasure.errors import ModelError
from erasure.files.records import read_record
from erasure.models.classifier.load import open_network
from erasure.models.classifier.transform import Transform


@dataclass(frozen=True)
class Classifier:
    """A timm model with its label names and the transform that travels with its weights.

    Without a transform, images are squashed to `size`.
    """

    model: nn.Module
    labels: tuple[str, ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str
    transform: Transform | None = None

    @torch.no_grad()
    def logits(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n labels"]:
        """Class scores of images in [0, 255]."""
        return self.model(self._prepared(images))

    @torch.no_grad()
    def features(self, images: UInt8[Tensor, "n 3 h w"], batch: int = 128) -> Float[Tensor, "n d"]:
        """What the head is given for images in [0, 255], on the CPU."""
        model: Any = self.model
        seen = [model.forward_features(self._prepared(part)) for part in images.split(batch)]
        return torch.cat([model.forward_head(part, pre_logits=True).cpu() for part in seen])

    @torch.no_grad()
    def layers(self, images: UInt8[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        """What each stage of the network sees in images in [0, 255], (n, c, h, w) each."""
        model: Any = self.model
        return model.forward_intermediates(self._prepared(images), intermediates_only=True)

    def _prepared(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 s s"]:
        device = next(self.model.parameters()).device
        if self.transform is not None:
            return self.transform(images).to(device)
        x = images.to(device).float() / 255
        if x.shape[-1] != self.size or x.shape[-2] != self.size:
            x = F.resize(x, [self.size, self.size], antialias=True)
        return F.normalize(x, list(self.mean), list(self.std))

    def predict(self, images: UInt8[Tensor, "n 3 h w"], batch: int = 128) -> Int[Tensor, " n"]:
        """The likeliest label's index for each image in [0, 255]."""
        return torch.cat([self.logits(part).argmax(1).cpu() for part in images.split(batch)])


def load_classifier(folder: Path) -> Classifier:
    """Read config.json and model.safetensors as timm writes them; ModelError if they do not fit."""
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(f"{folder} is no classifier: it has no config.json.")
    if "model_type" in read_record(file, dict[str, Any], error=ModelError):
        raise ModelError(f"{folder} is transformers' own; a judge must be a timm folder.")
    model, config = open_network(folder)
    if config.is_of_torchvision:
        raise ModelError(f"{folder} is torchvision's own; a judge must be a timm folder.")
    how = config.transform
    return Classifier(model.eval(), config.labels, how.size, how.mean, how.std, folder.name, how)
