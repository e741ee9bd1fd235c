"""Part of a crossed answer set (styles x objects x seeds), and what the whole would have shown.

The images of one style, or of one object, fail together: an erasure may spoil a whole neighbour and
spare all others. So a subset's images are not independent cases, and a binomial interval on their
number misses the full figure more often than it says. Here labels are drawn at random, and the
interval is a survey's (Korn and Graubard, 1998): Wilson's with an effective number of cases.

    V = sum over axes (1 - f) w^2 S^2 / (k + 1)
        + max(0, 1 - F - sum over axes (1 - f)) p (1 - p) / n
    n_eff = p (1 - p) / V,  with Student's t in the place of 1.96

k of an axis' labels were drawn, a share f; S^2 is the variance of their k rates and one more of
1/2, the label that nobody has seen; w is the share of the weight that is theirs and not the
targets'; F is the share of all images that was drawn, p the rate with that label added, n the
images. V is at least that of independent images, (1 - F) p (1 - p) / n. Both axes are added in
full, which is never too narrow. Degrees of freedom are Satterthwaite's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import t as student
from torch import Tensor

from erasure.errors import SettingError
from evaluation.score import Score, Z, wilson

UNSEEN = 0.5  # the rate of the one label that is added to those seen


@dataclass(frozen=True)
class Axis:
    """One domain: each image's label, which labels were drawn at random, and out of how many.

    Labels that are not among the drawn (the targets) are all there.
    """

    labels: Int[Tensor, " n"]
    drawn: tuple[int, ...]
    among: int

    @property
    def share(self) -> float:
        return len(self.drawn) / self.among if self.among else 1.0

    def weights(self) -> Float[Tensor, " n"]:
        """How many labels of the whole each image's label stands for."""
        is_drawn = torch.isin(self.labels, torch.tensor(self.drawn, dtype=torch.long))
        return torch.where(is_drawn, 1 / self.share, 1.0)

    def rates(
        self, where: Bool[Tensor, " n"], hit: Float[Tensor, " m"], weight: Float[Tensor, " m"]
    ) -> tuple[Float[Tensor, " k"], float]:
        """The rate of each drawn label among the images picked, and how much they weigh of all."""
        drawn, labels = torch.tensor(sorted(self.drawn), dtype=torch.long), self.labels[where]
        inside = torch.isin(labels, drawn)
        index, zero = torch.searchsorted(drawn, labels[inside]), torch.zeros(len(drawn))
        weighed = zero.index_add(0, index, weight[inside])
        hits, seen = zero.index_add(0, index, (weight * hit)[inside]), weighed > 0
        return hits[seen] / weighed[seen], float(weighed.sum() / weight.sum())


def draw_labels(known: Sequence[int], count: int, *, what: str) -> tuple[int, ...]:
    """`count` of these labels, in their order; always the same ones for the same labels."""
    if not 0 < count <= len(known):
        raise SettingError(f"subset must have 1 to {len(known)} {what}; got {count}.")
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(0))
    return tuple(sorted(known[index] for index in order[:count].tolist()))


def parse_subset(text: str) -> tuple[int, int]:
    """'10x5' -> (10, 5): styles and objects beside the targets."""
    styles, _, objects = text.partition("x")
    if not (styles.isdecimal() and objects.isdecimal()):
        raise SettingError(f"subset must be STYLESxOBJECTS, such as 10x5; got {text!r}.")
    return int(styles), int(objects)


def subset_rate(
    hits: Bool[Tensor, " n"], where: Bool[Tensor, " n"], axes: Sequence[Axis], seeds: float
) -> Score:
    """The whole's rate, estimated from the images picked by `where`, with its interval.

    `seeds` is the share of the seeds that was drawn. Every picked label must come with every other
    axis' labels and all the seeds.
    """
    weight = torch.stack([axis.weights() for axis in axes]).prod(0)[where]
    hit = hits[where].float()
    p, n = float((weight * hit).sum() / weight.sum()), len(hit)
    parts, smoothed, missing, drawn = [], [], 0.0, seeds
    for axis in axes:
        rates, part = axis.rates(where, hit, weight)
        k = len(rates)
        if k == 0 or axis.share == 1:
            continue
        spread = float(torch.cat([rates, torch.tensor([UNSEEN])]).var())
        parts.append(((1 - axis.share) * part**2 * spread / (k + 1), k))
        smoothed.append((p * k + UNSEEN) / (k + 1))
        missing += 1 - axis.share
        drawn *= axis.share
    if drawn == 1:
        return Score(p, 0.0, n, low=p, high=p)  # the whole itself
    q = sum(smoothed) / len(smoothed) if smoothed else (p * n + 2) / (n + 4)
    binomial, between, z = q * (1 - q) / n, sum(v for v, _ in parts), Z
    if between:
        z = float(student.ppf(0.975, between**2 / sum(v * v / k for v, k in parts)))
    variance = between + max(0.0, 1 - drawn - missing) * binomial
    variance = max(variance, (1 - drawn) * binomial)
    low, high = wilson(p, q * (1 - q) / variance, z)
    return Score(p, variance**0.5, n, low=low, high=high)
