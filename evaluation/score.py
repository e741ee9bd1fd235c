"""A number with its spread, count and direction."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from erasure.errors import SettingError

Z = 1.96  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True)
class Score:
    """A mean over `n` images; rates are fractions in [0, 1].

    `low` to `high` is its 95 % interval, where one was taken.
    """

    value: float
    stderr: float
    n: int
    higher_is_better: bool = True
    low: float | None = None
    high: float | None = None


def rate(hits: Bool[Tensor, " n"]) -> Score:
    """Share of True, with the binomial standard error sqrt(p (1 - p) / n) and Wilson's interval.

    SettingError without images: leave such a score out.
    """
    _refuse_none(len(hits))
    p, n = float(hits.float().mean()), len(hits)
    low, high = wilson(p, n)
    return Score(p, (p * (1 - p) / n) ** 0.5, n, low=low, high=high)


def estimate(
    value: float, error: float, n: int, *, least: float = -math.inf, most: float = math.inf,
    higher_is_better: bool = True,
) -> Score:  # fmt: skip
    """A value of this standard error; its interval, +- 1.96 s.e., ends at `least` and `most`."""
    low, high = max(least, value - Z * error), min(most, value + Z * error)
    return Score(value, error, n, higher_is_better, low, high)


def mean(values: Float[Tensor, " n"], *, least: float = -math.inf, most: float = math.inf) -> Score:
    """Mean with its standard error; SettingError without images, as `rate`.

    No value lies beyond `least` and `most`, and so no mean: its interval, which +- 1.96 s.e. would
    carry beyond them where few images or most at one end make it skew, ends there.
    """
    _refuse_none(len(values))
    spread = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return estimate(float(values.mean()), spread, len(values), least=least, most=most)


def mean_of_rates(scores: list[Score], correlation: Float[Tensor, "k k"] | None = None) -> Score:
    """Mean of several rates, each counting the same, with the standard error of that mean.

    `correlation` is that of their errors, where they share images; none means that they share none.
    Its interval is the mean of theirs: never too narrow, whether or not they share images.
    """

    def average(ends: list[float | None]) -> float | None:
        known = [end for end in ends if end is not None]
        return sum(known) / len(known) if len(known) == len(ends) else None

    values = torch.tensor([score.value for score in scores])
    errors = torch.tensor([score.stderr for score in scores], dtype=torch.float64)
    shared = torch.eye(len(scores)) if correlation is None else correlation
    spread = max(0.0, float(errors @ shared.double() @ errors)) ** 0.5 / len(scores)
    low, high = average([score.low for score in scores]), average([score.high for score in scores])
    count = sum(score.n for score in scores)
    return Score(float(values.mean()), spread, count, low=low, high=high)


def interval(
    value: float, stderr: float, n: int, *, is_rate: bool, least: float = -math.inf
) -> tuple[float, float]:
    """The 95 % interval: Wilson's for a rate, which is honest at 0 and 1, else +- 1.96 s.e.

    It ends at `least`, as in `mean`.
    """
    return wilson(value, n) if is_rate else (max(least, value - Z * stderr), value + Z * stderr)


def wilson(p: float, n: float, z: float = Z) -> tuple[float, float]:
    """Wilson's interval of a rate p over n independent cases; z is the normal quantile.

    No case says nothing: 0 to 1.
    """
    if n <= 0:
        return 0.0, 1.0
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, middle - reach), min(1.0, middle + reach)


def plain(scores: Mapping[str, Score]) -> dict[str, Any]:
    """Scores as a record holds them."""
    return {name: asdict(score) for name, score in scores.items()}


def _refuse_none(count: int) -> None:
    if count == 0:
        raise SettingError("a score must be of at least one image; got none.")
