"""Models trained to see the velocity noise - z0 in z_t = (1 - sigma) z0 + sigma noise.

Liu, Gong, Liu, "Flow Straight and Fast" (ICLR 2023), https://arxiv.org/abs/2209.03003; Esser et
al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (ICML 2024),
https://arxiv.org/abs/2403.03206. A time is 1000 sigma and need not be whole. Losses are on the
velocity itself: converted to noise they would weigh little where sigma is near 1, where a drawing
is decided.
"""

import re
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift
from jaxtyping import Float, Real
from torch import Tensor

from erasure.models.diffusion.checks import check_flow_matching
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.model import Condition, Level, SampledPath, Sampling, Times
from erasure.models.select import TRANSFORMER_SELECTIONS

EULER = "FlowMatchEulerDiscreteScheduler"
# mu of resolution-dependent shifts, by the names in a scheduler's config and of calculate_shift
SHIFTS = {
    "base_seq_len": ("base_image_seq_len", 256), "max_seq_len": ("max_image_seq_len", 4096),
    "base_shift": ("base_shift", 0.5), "max_shift": ("max_shift", 1.15),
}  # fmt: skip


class FlowMatching(LatentDiffusion):
    """A transformer with a flow-matching scheduler of diffusers; paths are Euler's."""

    backbone_name = "transformer"
    selections = TRANSFORMER_SELECTIONS
    text_maps, pooled_maps = "text.in", "pooled.in"
    block_linear = re.compile(
        r"(.*transformer_blocks\.\d+)\.(ff(?:_context)?\.net\.(?:0\.proj|2)"
        r"|attn\.(?:to_(?:q|k|v|out\.0)|add_[qkv]_proj|to_add_out))$"
    )
    sampling = Sampling(steps=28, guidance=7.0, scheduler=EULER)  # as Stability AI draws

    def _take_schedule(self) -> None:
        check_flow_matching(self.pipeline, self.name, self.packed)
        self.timesteps = self.pipeline.scheduler.config.num_train_timesteps

    def _schedule(self) -> tuple[Tensor, object]:
        axes = self.backbone.config.get("axes_dims_rope", ())  # how places turn FLUX's vectors
        shift = self.pipeline.vae.config.shift_factor
        return torch.tensor([self.timesteps]), ("flow", shift, *axes)

    def levels(self, t: Times) -> tuple[Level, Level]:
        """(1 - sigma, sigma) at t."""
        sigma = (t / self.timesteps).view(-1, 1, 1, 1)
        return 1 - sigma, sigma

    def target(self, z0: Tensor, noise: Tensor, t: Times) -> Float[Tensor, "b c h w"]:  # noqa: ARG002
        """The velocity."""
        return noise - z0

    def predict(
        self, z_t: Float[Tensor, "b c h w"], t: Times, condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        """The velocity at z_t."""
        return self._answer(z_t, t, condition)

    def denoised(self, z_t: Tensor, prediction: Tensor, t: Times) -> Float[Tensor, "b c h w"]:
        return z_t - self.levels(t)[1] * prediction

    def random_times(self, count: int, generator: torch.Generator) -> Real[Tensor, " b"]:
        """Logit-normal ones, moved towards noise by the scheduler's shift."""
        sigma = torch.randn(count, generator=generator).sigmoid()
        scheduler = self._euler()
        if scheduler.config.use_dynamic_shifting:
            sigma = scheduler.time_shift(self._mu, 1.0, sigma)
        else:
            sigma = scheduler.shift * sigma / (1 + (scheduler.shift - 1) * sigma)
        return sigma * self.timesteps

    def descent(self, steps: int) -> tuple[Real[Tensor, " s"], Float[Tensor, "2 s"]]:
        scheduler = self._euler()
        scheduler.set_timesteps(device=self.device, mu=self._mu, **self._spacing(steps))
        after = scheduler.sigmas[1:]
        return scheduler.timesteps, torch.stack([1 - after, after])

    @torch.no_grad()
    def sample_path(
        self, condition: Condition, *, steps: int, guidance: float, noise: Float[Tensor, "b c h w"]
    ) -> SampledPath:
        """Guided Euler steps."""
        times, (_, arrivals) = self.descent(steps)
        z = noise.to(self.device)
        both = torch.cat([self.encode([""]).expand_as(condition), condition])
        path, asked, empties = [], [], []
        for t, after in zip(times, arrivals, strict=True):
            none, some = self._answer(torch.cat([z, z]), t.expand(len(both)), both).chunk(2)
            path.append(z)
            asked.append(some)
            empties.append(none)
            z = z + (after - t / self.timesteps) * (none + guidance * (some - none))
        return SampledPath(torch.stack(path), z, times, torch.stack(asked), torch.stack(empties))

    def _spacing(self, steps: int) -> dict[str, Any]:
        """What the pipeline asks its scheduler for."""
        return {"num_inference_steps": steps}

    def _euler(self) -> Any:
        return FlowMatchEulerDiscreteScheduler.from_config(self.pipeline.scheduler.config)

    @property
    def _mu(self) -> float | None:
        """How far the schedule is shifted at this resolution, where that depends on it."""
        config = self.pipeline.scheduler.config
        if not config.get("use_dynamic_shifting", False):
            return None
        patches = (self.latent_shape[1] // self._patch) ** 2
        known = {name: config.get(*where) for name, where in SHIFTS.items()}
        return calculate_shift(patches, **known)
