"""Latents to images, a few at a time, and back."""

from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from erasure.errors import DivergedError

AT_ONCE, PIXELS_AT_ONCE = 8, 2**21  # more leave the cache of a CPU, and fill a GPU


@torch.no_grad()
def decoded(vae: Any, latents: Float[Tensor, "b c h w"], *, side: int) -> UInt8[Tensor, "b 3 h w"]:
    """Images in [0, 255] of `side` pixels, on the CPU, as diffusers' pipelines decode them.

    A float16 autoencoder whose config says `force_upcast` overflows; it computes in float32.
    DivergedError for a picture that is not finite, which would come out black.
    """
    is_raised = vae.dtype == torch.float16 and vae.config.get("force_upcast", False)
    if is_raised:
        vae.to(torch.float32)
    # channels last, because convolutions are faster so and give their output in the same order
    latents = latents.to(vae.dtype, memory_format=torch.channels_last)
    parts = (latents / vae.config.scaling_factor + _shift(vae)).split(
        max(1, min(AT_ONCE, PIXELS_AT_ONCE // side**2))
    )
    pixels = torch.cat([vae.decode(part).sample.cpu() for part in parts])
    if is_raised:
        vae.to(torch.float16)
    if not bool(pixels.isfinite().all()):
        raise DivergedError(
            f"a picture is not finite: the model has diverged, or its autoencoder overflows in "
            f"{str(vae.dtype).removeprefix('torch.')}."
        )
    return pixels.add(1).div(2).clamp(0, 1).mul(255).round().to(torch.uint8)


@torch.no_grad()
def encoded(vae: Any, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
    """Scaled latents of images in [0, 255], on the autoencoder's device."""
    said = vae.encode(images.to(vae.device, vae.dtype).div(127.5).sub(1))
    # a tiny autoencoder gives latents, others a distribution of them
    latents = said.latent_dist.mode() if "latent_dist" in said else said.latents
    return (latents - _shift(vae)) * vae.config.scaling_factor


def _shift(vae: Any) -> float:
    return vae.config.get("shift_factor") or 0.0  # Stable Diffusion 3 centres its latents
