"""The one optimisation loop; methods call it with a loss."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from erasure.errors import DivergedError
from erasure.run import Run


@contextmanager
def trainable(weights: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Within it, these weights ask for gradients; afterwards they hold none."""
    for parameter in weights.values():
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in weights.values():
            parameter.requires_grad_(False)
            parameter.grad = None


def fit(
    loss: Callable[[int], dict[str, Tensor]], weights: Mapping[str, nn.Parameter], *, steps: int,
    learning_rate: float, run: Run, stage: str = "fit", masks: Mapping[str, Tensor] | None = None,
    carried: Mapping[str, Tensor] | None = None, betas: tuple[float, float] = (0.9, 0.999),
    clip: float | None = None,
) -> None:  # fmt: skip
    """Minimise the sum of the loss's terms over `weights` by Adam, resuming an interrupted run.

    `loss(step)` gives named scalar terms, means over this process's share of the batch. `masks`
    (bool, one per weight) multiply the gradients, so a masked weight keeps its value exactly.
    `carried` are tensors that `loss` changes in place from step to step; they resume as well.
    `clip` bounds every element of the gradients.
    DivergedError if a loss or gradient is not finite; the state before that step is kept and named.
    """
    optimiser = torch.optim.Adam(list(weights.values()), lr=learning_rate, betas=betas)
    start = run.restore(stage, weights, optimiser, carried)
    with trainable(weights), run.progress(stage, steps, start) as bar:
        for step in range(start, steps):
            with run.autocast():
                terms = loss(step)
            total = torch.stack(list(terms.values())).sum()
            optimiser.zero_grad()
            total.backward()
            run.average_gradients(weights)
            if not _is_finite(total, weights):
                file = run.save_state(stage, step, weights, optimiser, carried)
                raise DivergedError(
                    f"{stage} met a loss or gradient that is not finite at step {step} "
                    f"(loss {total.item():.4g}); the last good state is kept in {file}. "
                    "Lower learning_rate and use another --out."
                )
            if clip is not None:
                nn.utils.clip_grad_value_(list(weights.values()), clip)
            for name, mask in (masks or {}).items():
                gradient = weights[name].grad
                if gradient is not None:
                    gradient.mul_(mask)
            optimiser.step()
            values = {name: term.item() for name, term in terms.items()}
            run.log(stage, step, values)
            bar.advance(f"loss {sum(values.values()):.4f}")
            run.checkpoint(stage, step + 1, weights, optimiser, carried)
        if start < steps:
            run.save_state(stage, steps, weights, optimiser, carried)


def _is_finite(total: Tensor, weights: Mapping[str, nn.Parameter]) -> bool:
    gradients = [parameter.grad for parameter in weights.values() if parameter.grad is not None]
    largest = torch.stack(
        [total.detach().abs(), *(gradient.abs().max() for gradient in gradients)]
    ).max()
    return bool(torch.isfinite(largest))
