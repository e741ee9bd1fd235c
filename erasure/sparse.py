"""Tensors of which few elements changed: indices and values, exact, in less room."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from erasure.errors import EditError

INDICES, VALUES, SHAPE = ":indices", ":values", ":shape"  # after a tensor's name, on disk
SHARE = 8  # at least so many elements for each that changed, which takes two numbers
LONGEST = 2**31  # elements that an int32 counts


@dataclass(frozen=True)
class Sparse:
    """New `values` (k) at the flat, rising `indices` (k) of a tensor of `shape`.

    Everything else is as in the base.
    """

    indices: Tensor
    values: Tensor
    shape: tuple[int, ...]


Changed = Tensor | Sparse


def changed(value: Tensor, original: Tensor) -> Changed:
    """The new value in float32: whole, or sparse where at most an eighth of it changed."""
    value = value.float()
    indices = (value != original.float()).flatten().nonzero()[:, 0]
    if len(indices) * SHARE > value.numel():
        return value.clone()
    return Sparse(indices, value.flatten()[indices], tuple(value.shape))


@torch.no_grad()
def put(new: Changed, into: Tensor) -> None:
    """Write what changed into the base's tensor."""
    if isinstance(new, Tensor):
        into.copy_(new)
        return
    places = torch.unravel_index(new.indices.to(into.device), new.shape)
    into[places] = new.values.to(into)


@torch.no_grad()
def add(deltas: Sequence[Tensor], into: Tensor) -> None:
    """Add changes to the base's tensor, one after another."""
    for delta in deltas:
        into.add_(delta.to(into))


def stored(tensors: Mapping[str, Changed]) -> dict[str, Tensor]:
    """As plain tensors: a sparse one as its indices, values and shape."""
    found: dict[str, Tensor] = {}
    for name, new in tensors.items():
        if isinstance(new, Tensor):
            found[name] = new
            continue
        size = torch.Size(new.shape).numel()
        found[name + INDICES] = new.indices.to(torch.int32 if size < LONGEST else torch.int64)
        found[name + VALUES] = new.values
        found[name + SHAPE] = torch.tensor(new.shape, dtype=torch.int64)
    return found


def opened(tensors: Mapping[str, Tensor], file: object) -> dict[str, Changed]:
    """What `stored` gave; EditError for indices and values that do not belong together."""
    found: dict[str, Changed] = {}
    for name, tensor in tensors.items():
        if name.endswith(INDICES):
            plain = name.removesuffix(INDICES)
            found[plain] = _checked(plain, tensors, file)
        elif not name.endswith((VALUES, SHAPE)):
            found[name] = tensor
        elif name.rpartition(":")[0] + INDICES not in tensors:
            raise EditError(f"{file} has {name} without its indices.")
    return found


def _checked(name: str, tensors: Mapping[str, Tensor], file: object) -> Sparse:
    indices, values, shape = (tensors.get(name + end) for end in (INDICES, VALUES, SHAPE))
    if indices is None or values is None or shape is None:
        raise EditError(f"{file} has only a part of {name}.")
    indices = indices.long()
    size = torch.Size(shape.tolist()).numel() if (shape > 0).all() else 0
    is_rising = bool((indices.diff() > 0).all()) and indices.ndim == 1
    fits = len(indices) == 0 or (int(indices[0]) >= 0 and int(indices[-1]) < size)
    if values.shape != indices.shape or not is_rising or not fits:
        raise EditError(f"{file} holds indices of {name} that do not fit its values or its shape.")
    return Sparse(indices, values, tuple(shape.tolist()))
