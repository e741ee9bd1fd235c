"""What an optimiser moves: weights themselves, or float32 masters of what may move in them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from erasure.errors import SettingError


class Masters:
    """Float32 parameters for an optimiser, by the names of the weights that they stand for.

    A float32 weight without a mask is its own master. Of a masked one (bool, its shape) the master
    holds what may move, flat, so that nothing is kept for the rest and nothing can move it. A
    weight in less than float32 begins at its value in `start`, and is float32 again after `close`.
    Where weights `are_shared`, another learner moves them too.
    """

    are_shared = False

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        masks: Mapping[str, Tensor] | None = None,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.weights, self.masks = weights, dict(masks or {})
        self._counts = {name: int(mask.sum()) for name, mask in self.masks.items()}
        self._start = {
            name: (start or {})[name].detach().to("cpu", torch.float32)
            for name, weight in weights.items()
            if weight.dtype != torch.float32
        }
        self.moving = {n: self._master(n) for n in weights if self._counts.get(n, 1)}
        if not self.moving:
            raise SettingError("a mask must let at least one weight change; this one lets none.")

    @property
    def are_low(self) -> bool:
        """Whether the weights are in less than float32."""
        return bool(self._start)

    def _master(self, name: str) -> nn.Parameter:
        weight = self.weights[name]
        if name not in self.masks and name not in self._start:
            return weight
        value = self._start.get(name, weight.detach()).to(weight.device)
        return nn.Parameter(self._part(name, value).clone())

    def _part(self, name: str, whole: Tensor) -> Tensor:
        """What may move of a tensor in the weight's shape; without waiting for the device."""
        if name not in self.masks:
            return whole
        mask = self.masks[name].flatten()
        places = torch.nonzero_static(mask, size=self._counts[name])[:, 0]
        return whole.flatten().index_select(0, places)

    @property
    def gradients(self) -> list[Tensor]:
        """The masters' own."""
        return [master.grad for master in self.moving.values() if master.grad is not None]

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Hand the weights' gradients over to their masters."""
        for name, weight in self.weights.items():
            master, gradient = self.moving.get(name), weight.grad
            if master is weight:
                continue
            weight.grad = None
            if master is not None:
                if self.are_shared and name not in self._start:
                    master.copy_(self._part(name, weight))
                master.grad = None if gradient is None else self._part(name, gradient).float()

    @torch.no_grad()
    def give_back(self) -> None:
        """Write the masters' values into the weights."""
        for name, master in self.moving.items():
            if master is not self.weights[name]:
                self._write(name, self.weights[name])

    def _write(self, name: str, whole: Tensor) -> None:
        value = self.moving[name].detach().to(whole)
        if name in self.masks:
            whole.masked_scatter_(self.masks[name].to(whole.device), value)
        else:
            whole.copy_(value)

    @torch.no_grad()
    def close(self) -> None:
        """Make the weights float32, to the last bit what the masters and `start` hold."""
        for name, value in self._start.items():
            weight = self.weights[name]
            whole = value.to(weight.device, copy=True)
            if name in self.moving:
                self._write(name, whole)
            weight.data = whole
