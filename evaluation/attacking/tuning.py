"""Fine-tuning an erased model on pictures, until it draws the concept again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.training.learner import trainable
from evaluation.attacking.scene import Case, Scene, Targets

BACK = 0.5  # share of the cases that must show the concept for it to be back


@dataclass(frozen=True)
class Tuning:
    """How long and how fast; `name` stands at the progress."""

    name: str
    steps: int
    every: int
    learning_rate: float
    batch_size: int


def tune(
    scene: Scene, cases: Sequence[Case], targets: Targets, prompts: list[str], how: Tuning,
    weights: Mapping[str, nn.Parameter], kept_as: str | None, *, rank: int = 0,
) -> tuple[Bool[Tensor, " n"], int]:  # fmt: skip
    """(which cases show the concept at the last drawing, steps taken); the weights stay changed.

    Every `every` steps all cases are drawn; it ends when BACK of them show the concept. With a
    `rank`, each weight moves by the product of two small matrices alone.
    """
    model, generator = scene.model, scene.generator("relearning")
    won, step = torch.zeros(len(cases), dtype=torch.bool), 0
    descend = _in_rank(weights, rank, how, generator) if rank else _plainly(weights, how)
    with scene.progress(how.name, how.steps) as bar:
        while step < how.steps and not scene.is_over:
            with trainable(weights):
                for _ in range(min(how.every, how.steps - step)):
                    rows = torch.randint(len(prompts), (how.batch_size,), generator=generator)
                    z_t, t, wanted = scene.lesson(targets, rows, generator)
                    condition = model.encode([prompts[i] for i in rows.tolist()])
                    loss = scene.finite(F.mse_loss(model.predict(z_t, t, condition), wanted))
                    descend(loss)
                    step += 1
                    bar.advance(f"loss {loss.item():.4f}")
            won = scene.wins([case.prompt for case in cases], cases, kept_as)
            if won.float().mean() >= BACK:
                break
    return won, step


@contextmanager
def put_back(weights: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Afterwards, the weights are what they were."""
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(before[name])


@contextmanager
def shuffled(weights: Mapping[str, nn.Parameter], generator: torch.Generator) -> Iterator[None]:
    """Within it, each matrix and kernel holds its elements in another order."""
    with put_back(weights):
        with torch.no_grad():
            for weight in weights.values():
                if weight.dim() > 1:
                    order = torch.randperm(weight.numel(), generator=generator)
                    weight.copy_(weight.flatten()[order.to(weight.device)].view_as(weight))
        yield


def _plainly(weights: Mapping[str, nn.Parameter], how: Tuning) -> Callable[[Tensor], None]:
    optimiser = torch.optim.Adam(list(weights.values()), lr=how.learning_rate)

    def descend(loss: Tensor) -> None:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return descend


def _in_rank(
    weights: Mapping[str, nn.Parameter], rank: int, how: Tuning, generator: torch.Generator
) -> Callable[[Tensor], None]:
    """W = W_0 + B A, with B from zero (Hu et al. 2022, https://arxiv.org/abs/2106.09685)."""
    moved = [weight for weight in weights.values() if weight.dim() > 1]
    start = [weight.detach().clone() for weight in moved]
    down = [torch.randn(rank, w[0].numel(), generator=generator).to(w) for w in moved]
    down = [(part / part.shape[1] ** 0.5).requires_grad_() for part in down]
    up = [torch.zeros(len(w), rank).to(w).requires_grad_() for w in moved]
    optimiser = torch.optim.Adam([*down, *up], lr=how.learning_rate)

    def descend(loss: Tensor) -> None:
        slopes = torch.autograd.grad(loss, moved)
        for slope, a, b in zip(slopes, down, up, strict=True):
            flat = slope.flatten(1)
            a.grad, b.grad = b.detach().T @ flat, flat @ a.detach().T
        optimiser.step()
        with torch.no_grad():
            for weight, first, a, b in zip(moved, start, down, up, strict=True):
                weight.copy_(first + (b @ a).view_as(first))

    return descend
