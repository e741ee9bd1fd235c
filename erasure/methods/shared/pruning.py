"""Which weights a network can do without: masks of those that stay, held while others learn."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from erasure.errors import SettingError
from erasure.methods.shared.saliency import largest


def largest_stay(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Bool masks over all tensors together: False for the share with the smallest |score|.

    `scores` are weights themselves for pruning by magnitude; in [0, 1), `sparsity` is rounded down
    to whole weights. SettingError if nothing would be left. Of equal scores the first ones stay.
    """
    total = sum(score.numel() for score in scores.values())
    staying = total - int(sparsity * total)
    if staying == 0:
        raise SettingError(f"sparsity must leave a weight; got {sparsity} of {total} weights.")
    return largest(scores, (staying + 0.5) / total)  # half a weight more, against rounding down


@torch.no_grad()
def put_zeros(weights: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> None:
    """Zero, in place, what the masks take away."""
    for name, mask in masks.items():
        weights[name].mul_(mask.to(weights[name].device))


def staying(weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The masks of weights that are pruned already: True where they are not zero."""
    return {name: weight.detach() != 0 for name, weight in weights.items()}


def sparsity_of(masks: Mapping[str, Tensor]) -> float:
    """The share of weights that the masks take away, in [0, 1]."""
    total = sum(mask.numel() for mask in masks.values())
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / total
