"""Weights in eight bits: a quarter of float32's room, at an error of about half a percent.

A tensor of two dimensions or more is whole numbers in [-127, 127] with a scale for each of its
first rows, `NAME:scale`; gains and biases are float16.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

SCALE = ":scale"  # after a tensor's name
MOST = 127


def packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """int8 and float16 tensors that stand for these."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2:
            found[name] = tensor.half()
            continue
        rows = tensor.float().flatten(1)
        scale = (rows.abs().amax(1, keepdim=True) / MOST).clamp(min=torch.finfo(torch.half).tiny)
        found[name] = (rows / scale).round().to(torch.int8).view(tensor.shape)
        found[name + SCALE] = scale[:, 0].clone()
    return found


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """float32 tensors of what `packed` gave."""
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE):
            continue
        scale = tensors.get(name + SCALE)
        found[name] = tensor.float()
        if scale is not None:
            found[name] *= scale.view(-1, *[1] * (tensor.ndim - 1))
    return found
