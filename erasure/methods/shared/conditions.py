"""One batch of noised pictures asked under several conditions at once."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from erasure.models.diffusion.model import Condition, DiffusionModel


def distances(
    model: DiffusionModel, z_t: Tensor, t: Tensor, wanted: Tensor,
    asked: Mapping[str, tuple[float, Condition]],
) -> dict[str, Tensor]:  # fmt: skip
    """Each condition's weight times the mean squared distance of its answer from `wanted`."""
    count = len(asked)
    conditions = torch.cat([condition for _, condition in asked.values()])
    said = model.predict(z_t.repeat(count, 1, 1, 1), t.repeat(count), conditions)
    return {
        name: weight * F.mse_loss(part, wanted)
        for (name, (weight, _)), part in zip(asked.items(), said.chunk(count), strict=True)
    }
