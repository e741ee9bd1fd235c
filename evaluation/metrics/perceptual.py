"""How different two images look: a distance between the features of a network's layers.

LPIPS: Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
(CVPR 2018), arXiv:1801.03924. `perceptual_distance` is its form without learned weights, over any
network's layers, and goes by another name; `lpips` is the real one.

    distance = mean over layers and positions of |u - u'|^2,  u: a position's channels at length one

0 for equal images, at most 4; layers and positions count the same.
"""

from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

from erasure.errors import ModelError
from erasure.training.processes import own_device

Layers = Sequence[Float[Tensor, "n _ _ _"]]


def perceptual_distance(first: Layers, second: Layers) -> Float[Tensor, " n"]:
    """The distance in [0, 4] of each image to its partner; layers are (n, c, h, w) each."""
    return (unit_features(first) - unit_features(second)).square().sum(1)


def unit_features(layers: Layers) -> Float[Tensor, "n d"]:
    """One vector of length one per image; their squared distance is the perceptual distance."""
    parts = []
    for layer in layers:
        positions = layer.shape[2] * layer.shape[3]
        parts.append(F.normalize(layer, dim=1).flatten(1) / (len(layers) * positions) ** 0.5)
    return torch.cat(parts, 1)


def sketch(features: Float[Tensor, "n d"], size: int) -> Float[Tensor, "n size"]:
    """`size` numbers per image that keep squared distances, each to about sqrt(2 / size).

    A fixed Gaussian projection, so without bias (Johnson and Lindenstrauss, 1984): means over many
    images are far closer.
    """
    generator = torch.Generator().manual_seed(features.shape[1])
    projection = torch.randn(features.shape[1], size, generator=generator)
    return features @ projection / size**0.5


def lpips(
    first: UInt8[Tensor, "n 3 h w"],
    second: UInt8[Tensor, "n 3 h w"],
    network: Literal["alex", "vgg", "squeeze"] = "alex",
) -> Float[Tensor, " n"]:
    """LPIPS of each image in [0, 255] to its partner, through torchmetrics.

    torchvision fetches the network's ImageNet weights once, as a pickled file of its own;
    ModelError where it cannot.
    """
    device = own_device()
    net = _lpips_network(network).to(device)
    pairs = zip(first.split(32), second.split(32), strict=True)
    with torch.no_grad():
        parts = [
            net(a.to(device) / 255, b.to(device) / 255, normalize=True).flatten() for a, b in pairs
        ]
    return torch.cat(parts).cpu()


@cache
def _lpips_network(network: Literal["alex", "vgg", "squeeze"]) -> nn.Module:
    try:
        return LearnedPerceptualImagePatchSimilarity(network, normalize=True).net
    except (OSError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ModelError(f"LPIPS needs torchvision's {network} weights: {first_line}") from error
