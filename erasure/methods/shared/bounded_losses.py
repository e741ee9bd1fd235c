"""Losses that push away what is to be forgotten and that, unlike ascent, have a lowest value.

A likelihood, a share or a distance comes in per item, and the loss per item goes out. What these
are of a classifier and of a diffusion model is said by the methods that call them.

    preference   (2 / beta) log(1 + r^beta)                       r = likelihood now / before
    hinge        max(0, 1 + unwanted - wanted)
    divergence   f*(g(unwanted)) - g(wanted)                      g and f* by the divergence:
                     tv       g(v) = tanh(v) / 2,   f*(u) = u
                     kl       g(v) = v,             f*(u) = exp(u - 1)
                     pearson  g(v) = v,             f*(u) = u + u^2 / 4

preference: Zhang, Lin, Bai, Mei, "Negative Preference Optimization" (COLM 2024),
https://arxiv.org/abs/2404.05868. Its gradient is that of ascent times 2 r^beta / (1 + r^beta), so
that what is forgotten already pushes no more; as beta goes to 0 it is ascent.
hinge: Cha, Cho, Hwang, Lee, "Towards Robust and Parameter-Efficient Knowledge Unlearning for LLMs"
(ICLR 2025), https://arxiv.org/abs/2408.06621.
divergence: Wang et al., "LLM Unlearning via Loss Adjustment with Only Forget Data" (ICLR 2025),
https://arxiv.org/abs/2410.11143: the variational form of an f-divergence.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Divergence = Literal["tv", "kl", "pearson"]


def preference_loss(log_ratio: Float[Tensor, " n"], beta: float) -> Float[Tensor, " n"]:
    """NPO's, from the log of (likelihood now / before); at least 0, and 2 log(2) / beta at first.

    `beta` above 0.
    """
    return 2 / beta * F.softplus(beta * log_ratio)


def hinge_loss(unwanted: Float[Tensor, " n"], wanted: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The inverted hinge: 0 where the wanted is ahead of the unwanted by 1; at most 2 of shares."""
    return F.relu(1 + unwanted - wanted)


def divergence_loss(
    unwanted: Float[Tensor, " n"], wanted: Float[Tensor, " n"], divergence: Divergence
) -> Float[Tensor, " n"]:
    """FLAT's, from shares in [0, 1]: it falls as the unwanted goes to 0 and the wanted to 1."""
    if divergence == "tv":
        return (unwanted.tanh() - wanted.tanh()) / 2
    if divergence == "kl":
        return torch.exp(unwanted - 1) - wanted
    return unwanted + unwanted.square() / 4 - wanted
