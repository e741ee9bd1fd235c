"""Fill a network with a file's weights, all of them, and see that it works."""

from typing import Any

import torch
from torch import Tensor, nn

from erasure.errors import ModelError
from erasure.models.classifier.transform import Transform


def fill(network: nn.Module, tensors: dict[str, Tensor], what: str, kind: str) -> None:
    """Put every tensor in its place, float numbers in float32.

    ModelError unless they are all that the network has, of its shapes, and finite numbers.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() and name.rpartition(".")[2] in ("weight", "bias"):
            raise ModelError(f"{what}: {name} must hold float numbers; it is {tensor.dtype}.")
    try:
        network.load_state_dict(
            {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}
        )
    except RuntimeError as error:
        raise ModelError(f"{what} do not fit {kind}: {line_of(error, 1)}") from error
    refuse_not_finite(network, what)


def refuse_not_finite(network: nn.Module, what: str) -> None:
    """ModelError for a weight or statistic that is NaN or infinite."""
    for name, tensor in network.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{what}: {name} holds values that are not finite.")


@torch.no_grad()
def try_once(network: nn.Module, transform: Transform, count: int, what: str) -> None:
    """ModelError unless the network takes a picture as its transform prepares it."""
    network.eval()
    device = next(network.parameters()).device
    picture = torch.zeros(1, 3, transform.size, transform.size, device=device)
    try:
        out: Any = network(picture)
    except Exception as error:  # shapes that meet nowhere fail in any layer, in any way
        raise ModelError(
            f"{what} does not take pictures of {transform.size} pixels, as its record says: "
            f"{line_of(error)}."
        ) from error
    scores = getattr(out, "logits", out)
    if not isinstance(scores, Tensor) or tuple(scores.shape) != (1, count):
        raise ModelError(f"{what} does not give one score for each of {count} classes.")


def line_of(error: Exception, number: int = 0) -> str:
    """One line of what a library says, cut at 300 letters."""
    lines = (str(error) or type(error).__name__).splitlines()
    return lines[min(number, len(lines) - 1)].strip().rstrip(".")[:300]
