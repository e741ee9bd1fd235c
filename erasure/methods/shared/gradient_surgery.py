"""Take out of one gradient what goes against another: a step along what is no loss's gradient.

Yu et al., "Gradient Surgery for Multi-Task Learning" (NeurIPS 2020),
https://arxiv.org/abs/2001.06782. Per tensor, where <g, r> < 0:

    pcgrad      g - strength <g, r> / |r|^2 r             no more against r, at strength 1
    published   g - strength <g, r> / (|g| |r|) r / |r|   as DoCo's authors' code has it: 1 / |g|
                                                          times as much
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from erasure.training.processes import average

Surgery = Literal["pcgrad", "published", "none"]
SMALLEST = 1e-12  # of a norm that is divided by


def gradients_of(loss: Tensor, weights: Mapping[str, nn.Parameter]) -> list[Tensor]:
    """A loss's gradient by each of the weights, the mean over the processes."""
    found = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
    gradients = [gradient.contiguous() for gradient in found]
    average(gradients)
    return gradients


def operated(
    gradients: Sequence[Tensor], against: Sequence[Tensor], kind: Surgery, strength: float
) -> tuple[list[Tensor], Tensor]:
    """The gradients without what goes against the others; and the share that did, in [0, 1]."""
    left, conflicts = list[Tensor](), list[Tensor]()
    for g, r in zip(gradients, against, strict=True):
        inner, length = (g * r).sum(), r.norm().clamp(min=SMALLEST)
        share = inner.clamp(max=0) / length
        if kind == "published":
            share = share / g.norm().clamp(min=SMALLEST)
        left.append(g if kind == "none" else g - strength * share * r / length)
        conflicts.append(inner < 0)
    return left, torch.stack(conflicts).float().mean()


def along(
    weights: Mapping[str, nn.Parameter], gradients: Sequence[Tensor], reads: Tensor
) -> Tensor:
    """A term whose gradients these are, one per weight, and whose value is that of `reads`."""
    inner = torch.stack(
        [(w.float() * g.detach().float()).sum()
         for w, g in zip(weights.values(), gradients, strict=True)]
    ).sum()  # fmt: skip
    return inner - inner.detach() + reads.detach()
