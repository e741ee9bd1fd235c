"""A small network that says which of two sorts its latents are, patch by patch.

Isola, Zhu, Zhou, Efros, "Image-to-Image Translation with Conditional Adversarial Networks" (CVPR
2017), https://arxiv.org/abs/1611.07004: strided convolutions of 64, 128, 256 and 512 channels, then
a convolution that gives one logit per patch. It has GroupNorm in BatchNorm's place, which has no
running statistics that a resumed run would need.
"""

from collections.abc import Sequence

import torch
from diffusers.models.embeddings import get_timestep_embedding
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.errors import SettingError

FIRST_WIDTH, LARGEST_WIDTH, GROUPS = 64, 512, 16
SLOPE = 0.2  # of the leaky rectifiers
HEAD = 4  # the last convolution's side
SPREADS = 1000.0  # the noise's share is told in thousandths, as time embeddings are


class Discriminator(nn.Module):
    """`depth` convolutions that each halve the latents, and one that gives a logit per patch.

    With `knows_noise` it is told how much noise the latents were estimated from.
    """

    def __init__(self, channels: int, depth: int, *, knows_noise: bool) -> None:
        super().__init__()
        widths = [min(FIRST_WIDTH * 2**number, LARGEST_WIDTH) for number in range(depth)]
        pairs = zip([channels, *widths], widths, strict=False)
        self.halving = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in pairs
        )
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, width) for width in widths[1:])
        self.noise = nn.Linear(FIRST_WIDTH, FIRST_WIDTH) if knows_noise else None
        self.head = nn.Conv2d(widths[-1], 1, HEAD)

    def forward(
        self, latents: Float[Tensor, "b c h w"], spread: Float[Tensor, "b 1 1 1"]
    ) -> Float[Tensor, "b 1 p q"]:
        """Logits, of scaled latents and of the noise's share in what they were estimated from."""
        first, *rest = self.halving
        x = F.leaky_relu(first(latents), SLOPE)
        if self.noise is not None:
            told = get_timestep_embedding(SPREADS * spread.flatten().float(), FIRST_WIDTH)
            x = x + self.noise(told)[:, :, None, None]
        for halve, norm in zip(rest, self.norms, strict=True):
            x = F.leaky_relu(norm(halve(x)), SLOPE)
        return self.head(x)


def check_depth(owner: str, depth: int, shape: Sequence[int]) -> None:
    """SettingError for a depth that leaves latents (c, h, w) too small for the last convolution."""
    side = min(shape[1:])
    most = max((n for n in range(1, 16) if side >> n >= HEAD), default=0)
    if depth > most:
        raise SettingError(
            f"{owner}.depth must be at most {most} for latents of {shape[1]} x {shape[2]}; "
            f"got {depth}."
        )


def real_or_drawn(logits: Tensor, *, is_drawn: bool) -> Tensor:
    """The mean cross-entropy of calling all of these drawn (1), or real (0)."""
    wanted = torch.full_like(logits, float(is_drawn))
    return F.binary_cross_entropy_with_logits(logits, wanted)
