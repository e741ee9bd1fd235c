"""The stem that residual networks get for small pictures, as CIFAR's tables have it.

The 7 x 7 convolution with stride 2 and the pooling behind it, made for 224 pixels, leave 8 x 8 of
a picture of 32 pixels. In their place: 3 x 3, stride 1, no pooling. He, Zhang, Ren, Sun, "Deep
Residual Learning" (CVPR 2016), section 4.2.
"""

from typing import Literal

from torch import nn

from erasure.errors import ModelError

Stem = Literal["own", "cifar"]
SMALL = 64  # pixels of a side, up to which a picture is too small for the network's own stem


def has_large_stem(network: nn.Module) -> bool:
    """Whether the network begins like a ResNet: a large `conv1` with stride 2, then `maxpool`."""
    first = getattr(network, "conv1", None)
    is_large = isinstance(first, nn.Conv2d) and first.stride[0] > 1
    return is_large and isinstance(getattr(network, "maxpool", None), nn.Module)


def put_small_stem(network: nn.Module, what: str) -> None:
    """Exchange the stem for CIFAR's, with random weights; ModelError without such a stem."""
    first = getattr(network, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not has_large_stem(network):
        raise ModelError(
            f"{what} cannot have the stem cifar: it does not begin with conv1 of stride 2 and "
            "maxpool, as ResNets do."
        )
    small = nn.Conv2d(3, first.out_channels, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
    network.conv1, network.maxpool = small, nn.Identity()
