"""How far a model's knowledge of a concept is from that of one that never knew it.

Everything compares an edited model with a gold one on the same pictures, times and noise. The
likelihoods are those of FADE (2510.12981) in spirit: here a picture's loss is its mean squared
error of prediction over evenly spaced times, which bounds its likelihood up to the weights of the
times.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from erasure.models.diffusion.model import Condition, DiffusionModel
from evaluation.score import Score, estimate, mean

AT_ONCE = 64
RESAMPLES = 500


@torch.no_grad()
def losses(
    model: DiffusionModel, z0: Float[Tensor, "n c h w"], condition: Condition, *, levels: int,
    seed: int = 0,
) -> Float[Tensor, "n levels"]:  # fmt: skip
    """Each picture's mean squared error at evenly spaced times, on the CPU in float64.

    Noise is drawn from the seed alone, so that models asked with the same seed share it.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for level in range(levels):
        noise = torch.randn(z0.shape, generator=generator).to(z0)
        t = torch.full((len(z0),), int(model.timesteps * (level + 0.5) / levels), device=z0.device)
        z_t, wanted = model.add_noise(z0, noise, t), model.target(z0, noise, t)
        parts = [
            (model.predict(z_t[rows], t[rows], condition[rows]) - wanted[rows]).square().flatten(1)
            for rows in torch.arange(len(z0), device=z0.device).split(AT_ONCE)
        ]
        found.append(torch.cat(parts).double().mean(1).cpu())
    return torch.stack(found, 1)


def gap(edited: Float[Tensor, "n levels"], gold: Float[Tensor, "n levels"]) -> Score:
    """Mean of edited - gold over pictures: below 0 remembers, above 0 is over-erased."""
    return _paired((edited - gold).mean(1))


def divergence(
    own: tuple[Float[Tensor, "n l"], Float[Tensor, "n l"]],
    golds: tuple[Float[Tensor, "m l"], Float[Tensor, "m l"]],
) -> Score:
    """E over the edited model's pictures of (gold's loss - its own) + the reverse over gold's.

    `own` and `golds` are (the edited model's, gold's) losses on each model's pictures. Symmetric; 0
    for equal models; it is zero or above where each model knows its own pictures better.
    """
    first = _paired((own[1] - own[0]).mean(1))
    second = _paired((golds[0] - golds[1]).mean(1))
    spread = (first.stderr**2 + second.stderr**2) ** 0.5
    value = first.value + second.value
    return estimate(value, spread, first.n + second.n, higher_is_better=False)


def judge_distance(
    seen: Int[Tensor, " n"], gold: Int[Tensor, " m"], labels: int, *, seed: int = 0
) -> Score:
    """Half the summed differences of the shares of each label, in [0, 1]; bootstrapped.

    Two samples of one distribution are not at 0: the floor is that of two gold models.
    """

    def shares(values: Tensor) -> Tensor:
        return torch.bincount(values, minlength=labels).double() / len(values)

    generator = torch.Generator().manual_seed(seed)
    value = float((shares(seen) - shares(gold)).abs().sum() / 2)
    again = []
    for _ in range(RESAMPLES):
        one, other = (
            values[torch.randint(len(values), (len(values),), generator=generator)]
            for values in (seen, gold)
        )
        again.append((shares(one) - shares(other)).abs().sum() / 2)
    drawn = torch.stack(again)
    # a bootstrap repeats the bias that small samples have, so only its spread is used
    spread = float(drawn.std())
    count = len(seen) + len(gold)
    return estimate(value, spread, count, least=0.0, most=1.0, higher_is_better=False)


def ratio(edited: Sequence[int | None], gold: Sequence[int | None], most: int) -> Score | None:
    """Steps to relearn, edited / gold, least over a grid; a cell that never got there: `most`.

    1 is as forgotten as never learned. A cell where neither got there says nothing and is passed
    over; None if all are such. The grid is one experiment, so that there is no spread.
    """
    known = [
        (most if one is None else one) / max(most if other is None else other, 1)
        for one, other in zip(edited, gold, strict=True)
        if (one, other) != (None, None)
    ]
    return Score(min(known), 0.0, len(known), low=min(known), high=min(known)) if known else None


@torch.no_grad()
def middle_features(
    model: DiffusionModel, z0: Float[Tensor, "n c h w"], *, shares: Sequence[float] = (0.2, 0.5),
    seed: int = 0,
) -> Float[Tensor, "n d"]:  # fmt: skip
    """Means over places of what the backbone's middle block gives, under the empty prompt.

    At these shares of the schedule, side by side; on the CPU.
    """
    generator, kept = torch.Generator().manual_seed(seed), []
    handle = model.middle.register_forward_hook(lambda *given: kept.append(_pooled(given[-1])))
    empty, found = model.encode([""]), []
    try:
        for share in shares:
            noise = torch.randn(z0.shape, generator=generator).to(z0)
            t = torch.full((len(z0),), int(model.timesteps * share), device=z0.device)
            z_t = model.add_noise(z0, noise, t)
            for rows in torch.arange(len(z0), device=z0.device).split(AT_ONCE):
                model.predict(z_t[rows], t[rows], empty.expand(len(rows), -1, -1))
            found.append(torch.cat(kept).double().cpu())
            kept.clear()
    finally:
        handle.remove()
    return torch.cat(found, 1)


def _pooled(said: object) -> Tensor:
    """(n, d) of a block's output: a map (n, d, h, w), or tokens (n, k, d), the image's last."""
    output: Tensor = said[-1] if isinstance(said, tuple) else said  # type: ignore[assignment]
    return output.flatten(2).mean(2) if output.ndim == 4 else output.mean(1)


def _paired(values: Float[Tensor, " n"]) -> Score:
    return replace(mean(values), higher_is_better=False)
