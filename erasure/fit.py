"""The one optimisation loop; methods call it with a loss."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from erasure.errors import DivergedError
from erasure.optimisers import ADAM, Optimiser
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
    carried: Mapping[str, Tensor] | None = None, by: Optimiser = ADAM, clip: float | None = None,
) -> None:  # fmt: skip
    """Minimise the sum of the loss's terms over `weights`, resuming an interrupted run.

    `loss(step)` gives named scalar terms, means over this process's share of the batch. `masks`
    (bool, one per weight) say what may move: gradients elsewhere are 0, and whatever momentum or
    weight decay does there is taken back after each step.
    `carried` are tensors that `loss` changes in place from step to step; they resume as well.
    `clip` bounds every element of the gradients.
    DivergedError if a loss or gradient is not finite; the state before that step is kept and named.
    """
    optimiser = by.over(list(weights.values()), learning_rate)
    drifts = bool(by.momentum or by.weight_decay)  # zero gradients alone keep Adam's weights still
    fixed = {name: weights[name].detach().clone() for name in (masks or {}) if drifts}
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
                raise _diverged(stage, step, total.item(), file)
            if clip is not None:
                nn.utils.clip_grad_value_(list(weights.values()), clip)
            for name, mask in (masks or {}).items():
                gradient = weights[name].grad
                if gradient is not None:
                    gradient.mul_(mask)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * by.rate(step, steps)
            optimiser.step()
            with torch.no_grad():
                for name, kept in fixed.items():
                    weights[name].copy_(torch.where(masks[name], weights[name], kept))  # type: ignore[index]
            values = {name: term.item() for name, term in terms.items()}
            run.log(stage, step, values)
            bar.advance(f"loss {sum(values.values()):.4f}")
            run.watch(stage, step + 1)
            run.checkpoint(stage, step + 1, weights, optimiser, carried)
        if start < steps:
            run.save_state(stage, steps, weights, optimiser, carried)


def _diverged(stage: str, step: int, loss: float, file: Path) -> DivergedError:
    return DivergedError(
        f"{stage} met a loss or gradient that is not finite at step {step} (loss {loss:.4g}); "
        f"the last good state is kept in {file}. Lower learning_rate and use another --out."
    )


def _is_finite(total: Tensor, weights: Mapping[str, nn.Parameter]) -> bool:
    gradients = [parameter.grad for parameter in weights.values() if parameter.grad is not None]
    largest = torch.stack(
        [total.detach().abs(), *(gradient.abs().max() for gradient in gradients)]
    ).max()
    return bool(torch.isfinite(largest))
