"""Pictures of a model while it learns, from noise that never changes, for the trackers."""

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.one_step import OneStep
from erasure.training.run import Run

STEPS, GUIDANCE = 25, 5.0
UNERASED = "un-erased"


class Samples:
    """Draws prompts every so many steps; the training goes on as if nobody had looked.

    The noise has a generator of its own, schedulers are built for the drawing, and weights are only
    read. An interrupted run goes on with the same noise. The first time in a process the original
    model's pictures are shown too, as step 0. Every process draws; the main one shows.
    """

    def __init__(
        self, model: LatentDiffusion, prompts: Sequence[str], *, every: int, run: Run
    ) -> None:
        self._model, self._prompts, self._every, self._run = model, list(prompts), every, run
        shape = (len(self._prompts), *model.latent_shape)
        self._noise = torch.randn(shape, generator=run.generator_for("samples"))
        self._has_base = False

    def __call__(self, stage: str, step: int) -> None:
        """Draw and show, if it is time to."""
        if step % self._every:
            return
        model = self._run.subject or self._model
        if not self._has_base:
            with model.original():
                self._show(UNERASED, 0, self._drawn(model))
            self._has_base = True
        self._show(stage, step, self._drawn(model))

    def _show(self, stage: str, step: int, images: UInt8[Tensor, "n 3 h w"]) -> None:
        if self._run.is_main:
            for prompt, image in zip(self._prompts, images, strict=True):
                self._run.trackers.show(f"{stage}/{prompt}", step, image[None])

    @torch.no_grad()
    def _drawn(self, model: LatentDiffusion) -> UInt8[Tensor, "n 3 h w"]:
        with self._run.autocast():
            condition = model.encode(self._prompts)
            if isinstance(model, OneStep):
                finished = model.one_call(self._noise.to(model.device), condition)
            else:
                finished = model.sample_path(
                    condition, steps=STEPS, guidance=GUIDANCE, noise=self._noise
                ).finished
        vae = model.pipeline.vae  # it may rest in the CPU's memory
        before = vae.device
        vae.to(model.device)
        images = model.to_images(finished)
        vae.to(before)
        return images
