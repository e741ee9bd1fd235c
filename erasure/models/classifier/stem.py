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
    first, pool = getattr(network, "conv1", None), getattr(network, "maxpool", None)
    return isinstance(first, nn.Conv2d) and first.stride[0] > 1 and pool is not None


def put_small_stem(network: nn.Module, what: str) -> None:
    """Exchange the stem for CIFAR's, with random weights; ModelError without such a stem."""
    if not has_large_stem(network):
        raise ModelError(
            f"{what} cannot have the stem cifar: it does not begin with conv1 of stride 2 and "
            "maxpool, as ResNets do."
        )
    width: int = network.conv1.out_channels  # type: ignore[union-attr, assignment]
    network.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
