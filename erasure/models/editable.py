"""What an edit needs of a model: named tensors, and a way to ask what it said before."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from erasure.models.select import select_names

Moved = tuple[int, float, float]  # elements, squared distance, squared norm before


class Editable(ABC):
    """A frozen model with a way to ask what it would have said before it was edited.

    `originals` holds copies of remembered tensors, in the CPU's memory; only those can differ from
    the original model.
    `selections` are the words that `weights` knows, each a regular expression over full names.
    """

    name: str
    folder: Path | None
    selections: Mapping[str, str]

    def __init__(self) -> None:
        self.originals: dict[str, Tensor] = {}
        self._copies: dict[str, tuple[Tensor, Tensor]] = {}
        self._asks_original = False

    @abstractmethod
    def parameters(self) -> dict[str, nn.Parameter]:
        """Every weight that an edit may change, by full name."""

    def buffers(self) -> dict[str, Tensor]:
        """What training moves beside the weights, such as BatchNorm's statistics, by full name."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers: all that an edit may hold."""
        return {**self.parameters(), **self.buffers()}

    def moved(self) -> dict[str, Moved]:
        """How far each remembered tensor is from the original one, where it is."""
        current, found = self.tensors(), dict[str, Moved]()
        for name, old in self.originals.items():
            gone = float((current[name].detach().cpu() - old).float().square().sum())
            if gone > 0:
                found[name] = old.numel(), gone, float(old.float().square().sum())
        return found

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @property
    def asks_original(self) -> bool:
        """Whether the original model is being asked just now."""
        return self._asks_original

    def constants(self) -> dict[str, Tensor | str]:
        """What else decides its answers and is never edited, by name."""
        return {}

    @abstractmethod
    def module(self, name: str) -> nn.Module:
        """The module whose parameters are called `name`.…"""

    def weights(self, select: str) -> dict[str, nn.Parameter]:
        """The parameters a selection names (see models/select.py); never empty, or SettingError."""
        parameters = self.parameters()
        return {
            name: parameters[name]
            for name in select_names(select, list(parameters), self.selections)
        }

    def remember(self, names: Sequence[str]) -> None:
        """Keep copies of the named tensors as they are now, unless they are kept already."""
        current = self.tensors()
        for name in names:
            if name not in self.originals:
                self.originals[name] = current[name].detach().to("cpu", copy=True)

    def kept(self, prefix: str, like: nn.Module) -> dict[str, Tensor]:
        """The remembered tensors below a prefix, without it, as the module's own: for a call.

        What had to be moved or cast for that is kept for the next.
        """
        own = next(like.parameters())
        found = {}
        for name, tensor in self.originals.items():
            if name.startswith(prefix):
                source, copy = self._copies.get(name, (None, tensor))
                dtype = own.dtype if tensor.is_floating_point() else tensor.dtype
                if source is not tensor or (copy.dtype, copy.device) != (dtype, own.device):
                    copy = tensor.to(own.device, dtype)
                    self._copies[name] = tensor, copy
                found[name.removeprefix(prefix)] = copy
        return found

    @contextmanager
    def original(self) -> Iterator[None]:
        """Within it, `encode` and `predict` answer as the original model, without gradients."""
        before, self._asks_original = self._asks_original, True
        try:
            with torch.no_grad():
                yield
        finally:
            self._asks_original = before

    @contextmanager
    def without_edit(self) -> Iterator[None]:
        """Within it the model itself is the original one, `generate` included."""
        current = self.tensors()
        edited = {name: current[name].detach().to("cpu", copy=True) for name in self.originals}
        try:
            with torch.no_grad():
                for name, tensor in self.originals.items():
                    current[name].copy_(tensor)
            yield
        finally:
            with torch.no_grad():
                for name, tensor in edited.items():
                    current[name].copy_(tensor)
