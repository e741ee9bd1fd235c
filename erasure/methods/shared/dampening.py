"""How much each weight matters to a loss, and the damping of those that matter to one part alone.

Foster, Schoepf, Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic
Dampening" (AAAI 2024), https://arxiv.org/abs/2308.07707.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from erasure.errors import EditError
from erasure.training.learner import trainable
from erasure.training.processes import average
from erasure.training.run import Run

Batch = TypeVar("Batch")


def importances(
    weights: Mapping[str, nn.Parameter], batches: Sequence[Batch],
    loss: Callable[[Batch], Tensor], run: Run, *, is_squared: bool = True,
    grows_with: Sequence[str] = (),
) -> dict[str, Tensor]:  # fmt: skip
    """The mean over batches of the squared gradient of each batch's mean loss, or of its size.

    `loss` may give that of `run.part` of a batch alone: parts are averaged before they are squared.
    """
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    count = run.hardware.gradient_accumulation
    with trainable(weights), run.progress("importance", len(batches), grows_with=grows_with) as bar:
        for batch in batches:
            gradients = [torch.zeros_like(weight) for weight in weights.values()]
            for _ in run.pieces():
                found = torch.autograd.grad(
                    loss(batch) / count, list(weights.values()), materialize_grads=True
                )
                for gradient, part in zip(gradients, found, strict=True):
                    gradient += part
            average(gradients)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                total += gradient.square() if is_squared else gradient.abs()
            bar.advance()
    return {name: total / len(batches) for name, total in sums.items()}


@torch.no_grad()
def dampen(
    weights: Mapping[str, nn.Parameter], everything: Mapping[str, Tensor],
    forgotten: Mapping[str, Tensor], *, selection: float, strength: float,
) -> None:  # fmt: skip
    """Multiply each weight, in place, with its factor; EditError if all factors are 1."""
    count = 0
    for name, weight in weights.items():
        factor = factors(everything[name], forgotten[name], selection, strength)
        count += int((factor < 1).sum())
        weight.mul_(factor)
    if not count:
        raise EditError(
            f"no weight matters {selection:g} times as much to what is forgotten as to everything; "
            "lower selection."
        )


def factors(everything: Tensor, forgotten: Tensor, selection: float, strength: float) -> Tensor:
    """min(1, strength everything / forgotten) where forgotten > selection everything, else 1."""
    factor = (strength * everything / forgotten).clamp(max=1)  # 0 / 0 is not selected
    return torch.where(forgotten > selection * everything, factor, torch.ones_like(factor))
