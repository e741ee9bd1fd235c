"""A number with its spread, count and direction."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Score:
    """A mean over `n` images; rates are fractions in [0, 1]."""

    value: float
    stderr: float
    n: int
    higher_is_better: bool = True


def rate(hits: Bool[Tensor, " n"]) -> Score:
    """Share of True, with the binomial standard error sqrt(p (1 - p) / n)."""
    p = float(hits.float().mean())
    return Score(p, (p * (1 - p) / len(hits)) ** 0.5, len(hits))


def mean(values: Float[Tensor, " n"]) -> Score:
    """Mean with its standard error."""
    spread = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return Score(float(values.mean()), spread, len(values))


def mean_of_rates(scores: list[Score]) -> Score:
    """Mean of several rates, each counting the same, with the standard error of that mean."""
    values = torch.tensor([score.value for score in scores])
    spread = sum(score.stderr**2 for score in scores) ** 0.5 / len(scores)
    return Score(float(values.mean()), spread, sum(score.n for score in scores))


def interval(value: float, stderr: float, n: int, *, is_rate: bool) -> tuple[float, float]:
    """The 95 % interval: Wilson's for a rate, which is honest at 0 and 1, else +- 1.96 s.e."""
    z = 1.96
    if not is_rate:
        return value - z * stderr, value + z * stderr
    middle = (value + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * (value * (1 - value) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, middle - reach), min(1.0, middle + reach)
