"""Which weights score highest, over many tensors, without sorting them together; and scores.

`magnitude` is the gradient itself, SalUn's. `random` is the control. `wagle`: Jia, Liu, Zhang, Ram,
Baracaldo, Liu, "WAGLE: Strategic Weight Attribution for Effective and Modular Unlearning in Large
Language Models" (NeurIPS 2024), https://arxiv.org/abs/2410.17509.

    score   | mu (theta - g_r / h) g_f - mu^2 (g_r / h) g_f |

with g_f and g_r the gradients of what is forgotten and of what is kept, h of the latter's curvature
the diagonal, as the mean square of its gradients. It is how the forget loss changes, to first
order, when a weight's entry e in a mask goes from 1 to 1 + mu and the masked model is fitted anew
to what is kept: theta(e) = theta - (e - 1) g_r / h, and e theta(e) is what the network then has.

Choices
- h is the plain mean over batches. The authors' code lets it follow the batches, with 0.95 of the
  old in each, so that their order counts.
- h is `LEAST_CURVATURE` at least: where nothing is learned at all, g_r / h would be huge.
- g_r / h has no unit in common with theta, and a loss ten times as small makes it ten times as
  large. Where it outgrows theta, the score ranks |g_f g_r| / h.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from erasure.errors import DivergedError, SettingError
from erasure.files.storage import read_tensors

# a float32's sign bit is 0 in a magnitude; the other 31 order magnitudes as they order numbers
PARTS = ((20, 11), (10, 10), (0, 10))  # (lowest bit, bits) of each part, from the top
FIRST_NOT_FINITE = 0x7F800000
MaskScore = Literal["magnitude", "wagle", "random"]
MASK_STEP = 1e-3  # mu
LEAST_CURVATURE = 1e-12


def largest(scores: Mapping[str, Tensor], keep: float) -> dict[str, Tensor]:
    """Bool masks over all tensors together: True for the floor(keep * n) largest in magnitude.

    Of equal magnitudes the first ones are taken, in the order of the tensors and of their elements.
    DivergedError for a score that is not finite.
    """
    total = sum(score.numel() for score in scores.values())
    wanted = int(keep * total)
    if wanted == 0:
        return {name: torch.zeros_like(s, dtype=torch.bool) for name, s in scores.items()}
    threshold, spare = _threshold(scores, wanted)
    masks = {}
    for name, score in scores.items():
        bits = _bits(score)
        chosen, ties = bits > threshold, bits == threshold
        tied = int(ties.sum())
        if 0 < spare < tied:
            ties &= ties.cumsum(0) <= spare
        if spare > 0:
            chosen |= ties
        spare = max(spare - tied, 0)
        masks[name] = chosen.view(score.shape)
    return masks


@torch.no_grad()
def attributions(
    weights: Mapping[str, Tensor], forget: Mapping[str, Tensor], retain: Mapping[str, Tensor],
    curvature: Mapping[str, Tensor],
) -> dict[str, Tensor]:  # fmt: skip
    """WAGLE's score of every weight, in the gradients' precision.

    Of gradients in the unit of a mean loss; those to `forget` may be in any.
    """
    scores = {}
    for name, weight in weights.items():
        refitted = retain[name] / curvature[name].clamp(min=LEAST_CURVATURE)
        pruned = MASK_STEP * (weight.to(refitted) - refitted) - MASK_STEP**2 * refitted
        scores[name] = (pruned * forget[name]).abs()
    return scores


def random_scores(weights: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Numbers in [0, 1) of the weights' shapes, on their devices: a ranking by chance."""
    return {n: torch.rand(w.shape, generator=generator).to(w.device) for n, w in weights.items()}


def read_masks(
    method: str, file: Path, weights: Mapping[str, Tensor], device: torch.device
) -> dict[str, Tensor]:
    """The masks of these weights in a file. SettingError for `method` if one is not there."""
    masks, _ = read_tensors(file)
    wrong = [n for n, w in weights.items() if n not in masks or masks[n].shape != w.shape]
    if wrong:
        raise SettingError(
            f"{method}.mask must hold a mask for every selected weight; "
            f"{file} does not fit {wrong[0]}."
        )
    return {name: masks[name].to(device, torch.bool) for name in weights}


def _threshold(scores: Mapping[str, Tensor], wanted: int) -> tuple[int, int]:
    """(the bits of the smallest magnitude that is taken, how many of exactly it are).

    Found from the top bits down: each pass counts the magnitudes that share what is known of it.
    """
    known, left = 0, wanted
    for low, count in PARTS:
        counts = torch.zeros(1 << count, dtype=torch.long)
        for score in scores.values():
            bits = _bits(score)
            if low == PARTS[0][0] and int(bits.max()) >= FIRST_NOT_FINITE:
                raise DivergedError("the mask met a score that is not finite.")
            shared = bits[(bits >> (low + count)) == (known >> (low + count))]
            part = (shared >> low) & ((1 << count) - 1)
            counts += torch.bincount(part, minlength=1 << count).cpu()
        from_top = counts.flip(0).cumsum(0)
        index = int((from_top >= left).nonzero()[0])
        left -= int(from_top[index - 1]) if index else 0
        known |= ((1 << count) - 1 - index) << low
    return known, left


def _bits(score: Tensor) -> Tensor:
    """The magnitudes' bits as int32, flat."""
    return score.detach().float().abs().flatten().view(torch.int32)
