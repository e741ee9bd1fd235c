"""Which weights have the largest gradients, over many tensors, without sorting them together."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from erasure.errors import DivergedError, SettingError
from erasure.files.storage import read_tensors

# a float32's sign bit is 0 in a magnitude; the other 31 order magnitudes as they order numbers
PARTS = ((20, 11), (10, 10), (0, 10))  # (lowest bit, bits) of each part, from the top
FIRST_NOT_FINITE = 0x7F800000


def largest(gradients: Mapping[str, Tensor], keep: float) -> dict[str, Tensor]:
    """Bool masks over all tensors together: True for the floor(keep * n) largest in magnitude.

    Of equal magnitudes the first ones are taken, in the order of the tensors and of their elements.
    DivergedError for a gradient that is not finite.
    """
    total = sum(gradient.numel() for gradient in gradients.values())
    wanted = int(keep * total)
    if wanted == 0:
        return {n: torch.zeros_like(g, dtype=torch.bool) for n, g in gradients.items()}
    threshold, spare = _threshold(gradients, wanted)
    masks = {}
    for name, gradient in gradients.items():
        bits = _bits(gradient)
        chosen, ties = bits > threshold, bits == threshold
        tied = int(ties.sum())
        if 0 < spare < tied:
            ties &= ties.cumsum(0) <= spare
        if spare > 0:
            chosen |= ties
        spare = max(spare - tied, 0)
        masks[name] = chosen.view(gradient.shape)
    return masks


def read_masks(
    method: str, file: Path, weights: Mapping[str, Tensor], device: torch.device
) -> dict[str, Tensor]:
    """The masks of these weights in a file. SettingError for `method` if one is not there."""
    masks, _ = read_tensors(file)
    wrong = [n for n, w in weights.items() if n not in masks or masks[n].shape != w.shape]
    if wrong:
        raise SettingError(
            f"{method}.mask must hold a mask for every selected weight; "
            f"{file} does not fit {wrong[0]}."
        )
    return {name: masks[name].to(device, torch.bool) for name in weights}


def _threshold(gradients: Mapping[str, Tensor], wanted: int) -> tuple[int, int]:
    """(the bits of the smallest magnitude that is taken, how many of exactly it are).

    Found from the top bits down: each pass counts the magnitudes that share what is known of it.
    """
    known, left = 0, wanted
    for low, count in PARTS:
        counts = torch.zeros(1 << count, dtype=torch.long)
        for gradient in gradients.values():
            bits = _bits(gradient)
            if low == PARTS[0][0] and int(bits.max()) >= FIRST_NOT_FINITE:
                raise DivergedError("the mask met a gradient that is not finite.")
            shared = bits[(bits >> (low + count)) == (known >> (low + count))]
            part = (shared >> low) & ((1 << count) - 1)
            counts += torch.bincount(part, minlength=1 << count).cpu()
        from_top = counts.flip(0).cumsum(0)
        index = int((from_top >= left).nonzero()[0])
        left -= int(from_top[index - 1]) if index else 0
        known |= ((1 << count) - 1 - index) << low
    return known, left


def _bits(gradient: Tensor) -> Tensor:
    """The magnitudes' bits as int32, flat."""
    return gradient.detach().float().abs().flatten().view(torch.int32)
