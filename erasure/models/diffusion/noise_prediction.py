"""Models trained to see the noise in z_t = sqrt(alpha_bar) z0 + sqrt(1 - alpha_bar) noise.

Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models" (NeurIPS 2020),
https://arxiv.org/abs/2006.11239. Where the network gives v = signal * noise - spread * z0 (Salimans
and Ho 2022, https://arxiv.org/abs/2202.00512), that is converted.
"""

import re
from typing import Any

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float, Int, Real
from torch import Tensor

from erasure.models.diffusion.checks import check_noise_prediction
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.model import Condition, Level, SampledPath, TextPart, Times


class NoisePrediction(LatentDiffusion):
    """A UNet with a noise schedule of diffusers; paths are DDIM's."""

    backbone_name = "unet"
    block_linear = re.compile(
        r"(.*transformer_blocks\.\d+)\.(ff\.net\.(?:0\.proj|2)|attn2\.to_(?:q|k|v|out\.0))$"
    )
    alphas_cumprod: Float[Tensor, " timesteps"]

    def _take_schedule(self) -> None:
        check_noise_prediction(self.pipeline, self.towers, self.name)
        scheduler = self.pipeline.scheduler
        self._prediction = scheduler.config.get("prediction_type", "epsilon")
        self.alphas_cumprod = scheduler.alphas_cumprod.float().to(self.device)
        self.timesteps = len(self.alphas_cumprod)

    def _schedule(self) -> tuple[Tensor, object]:
        return self.alphas_cumprod, self.pipeline.scheduler.config.get("prediction_type", "epsilon")

    def text_parts(self) -> list[TextPart]:
        return [TextPart(slice(0, self._text_window), self.token_count)]

    def levels(self, t: Times) -> tuple[Level, Level]:
        """(sqrt(alpha_bar), sqrt(1 - alpha_bar)) at t."""
        alpha_bar = self.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def target(self, z0: Tensor, noise: Tensor, t: Times) -> Float[Tensor, "b c h w"]:  # noqa: ARG002
        """The noise."""
        return noise

    def predict(
        self, z_t: Float[Tensor, "b c h w"], t: Times, condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        """The noise in z_t; a v-prediction is converted."""
        return self._as_noise(self._answer(z_t, t, condition), z_t, t)

    def denoised(self, z_t: Tensor, prediction: Tensor, t: Times) -> Float[Tensor, "b c h w"]:
        signal, spread = self.levels(t)
        return (z_t - spread * prediction) / signal

    def random_times(self, count: int, generator: torch.Generator) -> Int[Tensor, " b"]:
        """Uniform ones."""
        return torch.randint(self.timesteps, (count,), generator=generator)

    def descent(self, steps: int) -> tuple[Real[Tensor, " s"], Float[Tensor, "2 s"]]:
        scheduler = self._ddim(steps)
        after = scheduler.timesteps - scheduler.config.num_train_timesteps // steps
        held = self.alphas_cumprod[after.clamp(min=0)]
        alpha_bar = torch.where(after >= 0, held, scheduler.final_alpha_cumprod.to(held))
        return scheduler.timesteps, torch.stack([alpha_bar.sqrt(), (1 - alpha_bar).sqrt()])

    @torch.no_grad()
    def sample_path(
        self, condition: Condition, *, steps: int, guidance: float, noise: Float[Tensor, "b c h w"]
    ) -> SampledPath:
        """Guided DDIM."""
        # in the network's own terms: noise does not give z0 where a schedule ends without signal
        scheduler = self._ddim(steps)
        z = noise.to(self.device)
        both = torch.cat([self.encode([""]).expand_as(condition), condition])
        path, asked, empties = [], [], []
        for t in scheduler.timesteps:
            none, some = self._answer(torch.cat([z, z]), t.expand(len(both)), both).chunk(2)
            path.append(z)
            asked.append(self._as_noise(some, z, t.expand(len(z))))
            empties.append(self._as_noise(none, z, t.expand(len(z))))
            z = scheduler.step(none + guidance * (some - none), t, z).prev_sample
        return SampledPath(
            torch.stack(path), z, scheduler.timesteps, torch.stack(asked), torch.stack(empties)
        )

    def _ddim(self, steps: int) -> Any:
        own = self.pipeline.scheduler.config
        scheduler: Any = DDIMScheduler.from_config(own, clip_sample=False)
        scheduler.set_timesteps(steps, device=self.device)
        return scheduler

    def _as_noise(self, answer: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        if self._prediction == "epsilon":
            return answer
        signal, spread = self.levels(t)
        return signal * answer + spread * z_t
