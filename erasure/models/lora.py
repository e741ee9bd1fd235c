"""Low-rank adapters of linear layers: W + (alpha / r) B A, trained without touching W.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), https://arxiv.org/abs/2106.09685.

An adapter adds to a layer's output through a hook. peft, whose names and files these tensors go
by, puts its own layer in the layer's place and so renames the weights, by which the untouched
model is asked here.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from erasure.errors import EditError
from erasure.models.editable import Editable

DOWN, UP = ".lora_A.weight", ".lora_B.weight"


@dataclass
class Adapter:
    """One request's matrices, A (r, in) and B (out, r), for each linear module by full name."""

    down: dict[str, nn.Parameter]
    up: dict[str, nn.Parameter]
    scale: float
    is_off: bool = False

    @classmethod
    def fresh(
        cls, layers: Mapping[str, nn.Linear], rank: int, alpha: float, generator: torch.Generator
    ) -> "Adapter":
        """A uniform in +-1/sqrt(in) (Kaiming with a = sqrt 5), B zero: no effect yet."""
        down, up = {}, {}
        for name, layer in layers.items():
            uniform = torch.rand((rank, layer.in_features), generator=generator) * 2 - 1
            device = layer.weight.device
            down[name] = nn.Parameter(uniform.to(device) / sqrt(layer.in_features))
            up[name] = nn.Parameter(torch.zeros(layer.out_features, rank, device=device))
        return cls(down, up, alpha / rank)

    def weights(self) -> dict[str, nn.Parameter]:
        """Every matrix by its name in a file."""
        return {
            **{name + DOWN: matrix for name, matrix in self.down.items()},
            **{name + UP: matrix for name, matrix in self.up.items()},
        }

    def group_norms(self, groups: Sequence[Sequence[str]]) -> Tensor:
        """sqrt of the summed squares of each group's matrices, (groups,); finite slope at zero."""
        squares = [
            torch.stack(
                [
                    m.float().square().sum()
                    for name in group
                    for m in (self.down[name], self.up[name])
                ]
            ).sum()
            for group in groups
        ]
        return (torch.stack(squares) + 1e-12).sqrt()

    def overlap(self, earlier: Mapping[str, Tensor]) -> Tensor:
        """The summed norms of A A_j' over the matrices A_j that stand in `earlier`, by file name.

        0 where the row spaces are orthogonal: what one adapter reads, the other does not.
        """
        total = next(iter(self.down.values())).new_zeros(())
        for name, matrix in self.down.items():
            if (other := earlier.get(name + DOWN)) is not None:
                total = total + torch.linalg.matrix_norm(matrix @ other.to(matrix).T)
        return total

    @contextmanager
    def on(self, model: Editable, layers: Mapping[str, nn.Linear]) -> Iterator[None]:
        """Within it the layers answer with the adapter, except for the original model's."""

        def hook_of(name: str):
            def hook(_layer: nn.Module, given: tuple[Tensor], said: Tensor) -> Tensor | None:
                if self.is_off or model.asks_original:
                    return None
                low = nn.functional.linear(given[0], self.down[name])
                return said + self.scale * nn.functional.linear(low, self.up[name])

            return hook

        with ExitStack() as stack:
            for name in self.down:
                stack.callback(layers[name].register_forward_hook(hook_of(name)).remove)
            yield

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within it the layers answer without the adapter, and without gradients."""
        self.is_off = True
        try:
            with torch.no_grad():
                yield
        finally:
            self.is_off = False


def linears(model: Editable, names: Sequence[str]) -> dict[str, nn.Linear]:
    """The linear modules of these names, as their weights are called in `parameters()`."""
    found = {}
    for name in names:
        layer = model.module(name)
        assert isinstance(layer, nn.Linear)
        found[name] = layer
    return found


def deltas(tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """(alpha / r) B A for each adapted module, by the name of the weight that it is added to.

    EditError if the tensors are not pairs of matrices that can be multiplied.
    """
    names = list(dict.fromkeys(name.removesuffix(DOWN).removesuffix(UP) for name in tensors))
    for name in names:
        down, up = tensors.get(name + DOWN), tensors.get(name + UP)
        if down is None or up is None:
            lacking = name + (UP if down is not None else DOWN)
            raise EditError(f"an adapter must hold pairs of matrices; {lacking} is absent.")
        if down.ndim != 2 or up.ndim != 2 or up.shape[1] != down.shape[0]:
            raise EditError(
                f"the adapter's matrices of {name} cannot be multiplied: {tuple(up.shape)} by "
                f"{tuple(down.shape)}."
            )
    return {
        f"{name}.weight": scale * tensors[name + UP].float() @ tensors[name + DOWN].float()
        for name in names
    }


def merge(model: Editable, tensors: Mapping[str, Tensor], scale: float) -> None:
    """Add an adapter to the weights; what they were is remembered."""
    added = deltas(tensors, scale)
    model.remember(list(added))
    current = model.parameters()
    with torch.no_grad():
        for name, delta in added.items():
            current[name].add_(delta.to(current[name]))


@torch.no_grad()
def moving_groups(
    model: Editable, tensors: Mapping[str, Tensor], groups: Sequence[Sequence[str]], scale: float,
    below: float,
) -> tuple[dict[str, Tensor], list[float]]:  # fmt: skip
    """(the matrices of the groups that do something, each group's largest relative change).

    EditError if no group does anything.
    A group is left out if it changes none of its weights by more than `below` of the weight's norm.
    """
    kept, changes, current = {}, [], model.parameters()
    for group in groups:
        moved = [
            scale
            * (tensors[n + UP] @ tensors[n + DOWN]).norm()
            / current[f"{n}.weight"].float().norm()
            for n in group
        ]
        changes.append(float(torch.stack(moved).max()))
        if changes[-1] > below:
            kept |= {n + end: tensors[n + end].detach() for n in group for end in (DOWN, UP)}
    if not kept:
        raise EditError(
            f"the adapter moves no weight of {model.name} by more than {below:g} of its size; "
            "raise steps or learning_rate, or lower zero_below."
        )
    return kept, changes
