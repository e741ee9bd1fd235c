"""A generator that draws in one call of a UNet, and the diffusers pipeline that draws the same.

Zhou et al., "Score identity Distillation" (ICML 2024), https://arxiv.org/abs/2404.04057, section 4:

    x_in = sqrt(1 - abar) z,    x = (x_in - sqrt(1 - abar) eps(x_in, t0, c)) / sqrt(abar)

with abar at the one timestep t0 that the generator is ever asked at, and z its noise. That is one
Euler step from the highest noise of a schedule that ends at t0, so a plain StableDiffusionPipeline
with the scheduler of `one_step_scheduler` draws it: one step, guidance 1.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from jaxtyping import Float, UInt8
from torch import Tensor

from erasure.errors import ModelError
from erasure.models.diffusion.decoding import decoded
from erasure.models.diffusion.model import Condition, Sampling
from erasure.models.diffusion.stable_diffusion import StableDiffusion

START = 625
ONE_STEP = Sampling(steps=1, guidance=1.0, scheduler="EulerDiscreteScheduler")


def one_step_scheduler(config: dict[str, Any], start: int = START) -> EulerDiscreteScheduler:
    """The first `start` + 1 timesteps of a scheduler's noise schedule, walked in one Euler step.

    ModelError for a schedule that is neither linear nor scaled_linear, nor given number by number.
    """
    walk = {
        "num_train_timesteps": start + 1,
        "prediction_type": config.get("prediction_type", "epsilon"),
        "timestep_spacing": "trailing",
        "steps_offset": 1,  # unused with trailing, but pipelines ask for it
    }
    if config.get("trained_betas") is not None or config.get("rescale_betas_zero_snr"):
        whole: Any = DDIMScheduler.from_config(config)
        return EulerDiscreteScheduler(trained_betas=whole.betas[: start + 1].tolist(), **walk)
    first, last = config["beta_start"], config["beta_end"]
    share = start / (config["num_train_timesteps"] - 1)
    if config["beta_schedule"] == "scaled_linear":
        end = (first**0.5 + (last**0.5 - first**0.5) * share) ** 2
    elif config["beta_schedule"] == "linear":
        end = first + (last - first) * share
    else:
        raise ModelError(
            "a one-step generator needs a linear or scaled_linear noise schedule; "
            f"got {config['beta_schedule']}."
        )
    return EulerDiscreteScheduler(
        beta_start=first, beta_end=end, beta_schedule=config["beta_schedule"], **walk
    )


class OneStep(StableDiffusion):
    """A StableDiffusion whose UNet is a one-step generator, with the scheduler that goes with it.

    Its noise schedule ends at t0.
    """

    sampling = ONE_STEP

    @classmethod
    def on(cls, model: StableDiffusion, unet: UNet2DConditionModel, *, name: str) -> Self:
        """A generator with this UNet that shares everything else with `model`."""
        scheduler = model.pipeline.scheduler
        if not isinstance(model, OneStep):
            scheduler = one_step_scheduler(dict(scheduler.config))
        made = pipeline_with(model.pipeline, unet, scheduler)
        return cls(made, name=name, folder=model.folder, catalogue=model.catalogue)

    @property
    def start(self) -> int:
        """t0, the timestep the generator is asked at."""
        return self.timesteps - 1

    def one_call(
        self, z: Float[Tensor, "b c h w"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        """The latents drawn from noise z; gradients pass."""
        spread = self.levels(torch.full((len(z),), self.start, device=z.device))[1]
        return self._finished(z * spread, self.start, condition)

    def _finished(self, z_t: Tensor, time: int, condition: Condition) -> Tensor:
        t = torch.full((len(z_t),), time, device=z_t.device)
        return self.denoised(z_t, self.predict(z_t, t, condition), t)

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[str] | Condition, *, steps: int, guidance: float,
        generators: Sequence[torch.Generator],
    ) -> UInt8[Tensor, "b 3 h w"]:  # fmt: skip
        """As StableDiffusion's for one step.

        More steps each call the generator on the last result with fresh noise, at timesteps that
        fall evenly from t0 (625 and 312 for two); `guidance` has no effect on these.
        """
        if steps == 1:
            return super().generate(prompts, steps=1, guidance=guidance, generators=generators)
        condition = prompts if isinstance(prompts, Tensor) else self.encode(prompts)
        latents = torch.zeros(len(condition), *self.latent_shape, device=self.device)
        for number in range(steps):
            time = round(self.start * (steps - number) / steps)
            signal, spread = self.levels(torch.tensor([time], device=self.device))
            fresh = [torch.randn(self.latent_shape, generator=own) for own in generators]
            noisy = spread * torch.stack(fresh).to(self.device)
            latents = self._finished(noisy + signal * latents * (number > 0), time, condition)
        return decoded(self.pipeline.vae, latents, side=self.resolution)


def pipeline_with(
    pipeline: StableDiffusionPipeline, unet: UNet2DConditionModel, scheduler: SchedulerMixin
) -> StableDiffusionPipeline:
    """A pipeline of the same encoder, tokenizer and autoencoder around another UNet."""
    parts: dict[str, Any] = {
        "vae": pipeline.vae, "text_encoder": pipeline.text_encoder, "unet": unet,
        "tokenizer": pipeline.tokenizer, "scheduler": scheduler, "safety_checker": None,
        "feature_extractor": None, "requires_safety_checker": False,
    }  # fmt: skip
    return StableDiffusionPipeline(**parts)
