"""A classifier at its worst on the way through a request, class by class.

De Lange, van de Ven and Tuytelaars, "Continual evaluation for lifelong learning: identifying the
stability gap" (ICLR 2023), https://arxiv.org/abs/2205.13452, whose earlier tasks are the kept
classes here. All go by `seen`: the accuracy in [0, 1] of each kept class (a column) at each look
(a row), the first of them before the request's first step. Errors are those of a mean over classes.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.score import Score, mean

WINDOW = 10  # looks, as the authors take


def least_accuracy(seen: Float[Tensor, "looks kept"]) -> Score:
    """min-ACC: the mean over classes of each one's least accuracy, at whatever look that was."""
    return mean(seen.amin(0), least=0, most=1)


def worst_case(seen: Float[Tensor, "looks kept"], forgotten: float) -> Score:
    """WC-ACC: the mean of the kept classes' least accuracies and, as one more, of `forgotten`.

    `forgotten` is the share of the request's own images that are not recognised in the end.
    """
    share = torch.tensor([forgotten], dtype=seen.dtype)
    return mean(torch.cat([share, seen.amin(0)]), least=0, most=1)


def windowed_forgetting(seen: Float[Tensor, "looks kept"], window: int = WINDOW) -> Score:
    """WF: how far each class falls at most within `window` looks in a row; the mean over classes.

    A fall is A(i) - A(j) of two looks i < j < i + window, 0 for a class that never fell. Looks are
    `--watch-every` steps apart, so that ten of them span ninety steps by default.
    """
    falls = torch.zeros_like(seen[0])
    for first in range(len(seen)):
        lowest = seen[first : first + window].amin(0)
        falls = torch.maximum(falls, seen[first] - lowest)
    return replace(mean(falls, least=0, most=1), higher_is_better=False)
