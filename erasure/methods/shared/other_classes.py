"""What may be said instead of a class that a classifier is to forget."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from erasure.methods.shared.bounded_losses import hinge_loss
from erasure.requested import Request
from erasure.training.run import Run


def other_labels(labels: Int[Tensor, " b"], classes: int, run: Run) -> Int[Tensor, " b"]:
    """A random class for each label, never the label itself."""
    count = run.whole(len(labels))
    shift = run.shard(torch.randint(1, classes, (count,), generator=run.generator))
    return (labels + shift) % classes


def alternatives(
    labels: Int[Tensor, " b"], request: Request, count: int
) -> Bool[Tensor, "b classes"]:
    """For each image to forget, which of so many classes may be said instead of its own.

    These are the kept ones: what is forgotten now or was earlier is no answer.
    """
    found = torch.zeros(count, dtype=torch.bool, device=labels.device)
    found[request.kept] = True
    return found & (torch.arange(count, device=labels.device) != labels[:, None])


def hinge(
    logits: Float[Tensor, "b classes"], labels: Int[Tensor, " b"], request: Request
) -> Float[Tensor, ""]:
    """The inverted hinge loss of images to forget, against the likeliest kept class."""
    probabilities = logits.float().softmax(1)
    right = probabilities.gather(1, labels[:, None])[:, 0]
    allowed = alternatives(labels, request, logits.shape[1])
    return hinge_loss(right, probabilities.masked_fill(~allowed, 0).amax(1)).mean()
