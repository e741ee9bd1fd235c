"""A post-hoc concept bottleneck: which concepts speak for a class, in a classifier's features.

Yuksekgonul, Wang, Zou, "Post-hoc Concept Bottleneck Models" (ICLR 2023),
https://arxiv.org/abs/2205.15480: concept k is a linear support vector machine on features f, image
scores are m_k = (v_k f + b_k) / |v_k|, and a sparse linear head on m names the class. Integrated
gradients of a linear head from a baseline m' are (m_k - m'_k) W_yk, exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[Float[Tensor, "p d"], Float[Tensor, "n d"]]  # features with a concept and without
LASSO = 0.99  # of the elastic net, whose rest is a ridge
HEAD_STEPS = 500


@dataclass(frozen=True)
class Bottleneck:
    """Concepts in features, in float64, and how much each speaks for each class."""

    names: list[str]
    center: Float[Tensor, " d"]
    spread: Float[Tensor, " d"]
    vectors: Float[Tensor, "k d"]
    offsets: Float[Tensor, " k"]
    baseline: Float[Tensor, " k"]
    head: Float[Tensor, "classes k"]

    def scores(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """m, the signed distance of each image from each concept's border."""
        return (features.double() - self.center) / self.spread @ self.vectors.T + self.offsets

    def attributions(
        self, features: Float[Tensor, "n d"], labels: Int[Tensor, " n"]
    ) -> Float[Tensor, "n k"]:
        """How much each concept of each image speaks for its label (integrated gradients)."""
        return (self.scores(features) - self.baseline) * self.head[labels]


def make_bottleneck(
    concepts: dict[str, Pair], features: Float[Tensor, "n d"], labels: Int[Tensor, " n"],
    classes: int, *, slack: float, sparsity: float,
) -> Bottleneck:  # fmt: skip
    """Find the concepts' directions, then the head of so many classes on the labelled features.

    `slack` is the machines' C, `sparsity` the elastic net's weight (lambda).
    """
    values = features.double()
    center, spread = values.mean(0), values.std(0).clamp(min=1e-6)
    found = [
        support_vector(
            (inside.double() - center) / spread, (outside.double() - center) / spread, slack
        )
        for inside, outside in concepts.values()
    ]
    vectors, offsets = (torch.stack(parts) for parts in zip(*found, strict=True))
    blank = torch.zeros(classes, len(found), dtype=torch.float64)
    plain = Bottleneck([*concepts], center, spread, vectors, offsets, blank[0], blank)
    scores = plain.scores(features)
    head = sparse_head(scores, labels, classes, sparsity)
    return Bottleneck([*concepts], center, spread, vectors, offsets, scores.mean(0), head)


def support_vector(
    inside: Float[Tensor, "p d"], outside: Float[Tensor, "n d"], slack: float
) -> tuple[Float[Tensor, " d"], Float[Tensor, ""]]:
    """(v, b), divided by |v|, that minimise |v|^2 / 2 + C sum relu(1 - y (v f + b))^2."""
    f = torch.cat([inside, outside]).numpy()
    y = np.repeat([1.0, -1.0], [len(inside), len(outside)])

    def loss(plane: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        v, b = plane[:-1], plane[-1]
        lack = np.maximum(1 - y * (f @ v + b), 0)
        slope = -2 * slack * lack * y
        value = v @ v / 2 + slack * (lack**2).sum()
        return float(value), np.append(v + slope @ f, slope.sum())

    plane = torch.from_numpy(minimize(loss, np.zeros(f.shape[1] + 1), jac=True).x)
    length = plane[:-1].norm().clamp(min=1e-12)
    return plane[:-1] / length, plane[-1] / length


def sparse_head(
    scores: Float[Tensor, "n k"], labels: Int[Tensor, " n"], classes: int, sparsity: float
) -> Float[Tensor, "classes k"]:
    """Softmax regression with an elastic net, by proximal gradients (FISTA); its bias is free."""
    x = torch.cat([scores - scores.mean(0), torch.ones(len(scores), 1).double()], 1)
    wanted = F.one_hot(labels, classes).double()
    ridge = sparsity * (1 - LASSO)
    rate = 1 / (float(torch.linalg.matrix_norm(x, 2)) ** 2 / len(x) / 2 + ridge)
    free = torch.ones(x.shape[1], dtype=torch.float64)
    free[-1] = 0  # the bias is not made small
    head = ahead = torch.zeros(classes, x.shape[1], dtype=torch.float64)
    pace = 1.0
    for _ in range(HEAD_STEPS):
        slope = ((x @ ahead.T).softmax(1) - wanted).T @ x / len(x) + ridge * free * ahead
        before, moved = head, ahead - rate * slope
        head = moved.sign() * (moved.abs() - rate * sparsity * LASSO * free).clamp(min=0)
        faster = (1 + (1 + 4 * pace**2) ** 0.5) / 2
        ahead, pace = head + (pace - 1) / faster * (head - before), faster
    return head[:, :-1]


def nearest(means: Float[Tensor, "classes k"], own: int, among: Sequence[int]) -> int:
    """The class whose mean attributions point most in the direction of those of class `own`."""
    angles = F.cosine_similarity(means[list(among)], means[own][None], dim=1)
    return among[int(angles.argmax())]
