"""Figures for class forgetting: accuracies, H-mean, membership, distance to a retrained model."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from evaluation.score import Score, mean, rate


def accuracy(
    said: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], classes: list[int]
) -> Score:
    """Plain accuracy over the images of some classes."""
    own = torch.isin(labels, torch.tensor(classes, dtype=torch.long))
    return rate(said[own].argmax(1) == labels[own])


def h_mean(drop: float, kept: float) -> float:
    """2 drop kept / (drop + kept): high only if the forgotten fell and the rest stayed.

    Both in [0, 1]; 0 if both are 0.
    """
    return 2 * drop * kept / (drop + kept) if drop + kept > 0 else 0.0


def membership(
    members: Float[Tensor, " m"], others: Float[Tensor, " o"], asked: Float[Tensor, " f"]
) -> Score:
    """Share of `asked` that a confidence attack takes for images never trained on.

    The attack is the threshold on the true class's probability that best tells `members` (images
    still trained on) from `others` (never trained on), both counting the same. Yeom et al.,
    "Privacy Risk in Machine Learning" (CSF 2018); 1 means that no trace is seen.
    """
    members, others = members.sort().values, others.sort().values
    candidates = torch.cat([members, others]).unique()
    kept = len(members) - torch.searchsorted(members, candidates)
    refused = torch.searchsorted(others, candidates)
    right = kept / len(members) + refused / len(others)
    return rate(asked < candidates[right.argmax()])


def distance(said: Float[Tensor, "n classes"], other: Float[Tensor, "n classes"]) -> Score:
    """Total variation of two models' probabilities, averaged over images; in [0, 1]."""
    moved = (said - other).abs().sum(1) / 2
    return replace(mean(moved, least=0, most=1), higher_is_better=False)
