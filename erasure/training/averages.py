"""An exponential moving average of what learns."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Average:
    """Means of tensors, beside them, which follow them where they are told to."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)
        self.means = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def follow(self, share: float) -> None:
        """Each mean goes this share of its way to the tensor, in (0, 1]; at 1 it begins anew."""
        for name, tensor in self.tensors.items():
            self.means[name].lerp_(tensor.detach(), share)

    @torch.no_grad()
    def put(self) -> None:
        """Give the tensors the values of their means."""
        for name, tensor in self.tensors.items():
            tensor.copy_(self.means[name])


def share_of_step(step: int, decay: float) -> float:
    """1 - decay, and more in the first steps, when there is little to average."""
    return 1 - min(decay, (1 + step) / (10 + step))
