"""Noise from one generator per seed that runs on from image to image."""

import torch

from erasure.models.diffusion.model import DiffusionModel
from evaluation.drawing.generate import Shot

PLACES = 10_000  # a shot's noise_seed is seed * PLACES + its place


class RunningNoise:
    """UnlearnCanvas' published samplers: seeded once, then drawn from prompt by prompt.

    For each prompt they draw its first noise and then, unused, one tensor per step, all on their
    device: the noise depends on the prompt's place, the number of steps and the kind of device.
    Each call gives a copy of the generator as it stands before the shot's noise.
    """

    def __init__(self, model: DiffusionModel, steps: int) -> None:
        self._shape, self._device, self._draws = (1, *model.latent_shape), model.device, steps + 1
        self._reached: dict[int, tuple[torch.Generator, int]] = {}

    def __call__(self, shot: Shot) -> torch.Generator:
        seed, place = divmod(shot.noise_seed, PLACES)
        generator, reached = self._reached.get(seed, (None, 0))
        if generator is None or reached > place:
            generator, reached = torch.Generator(self._device).manual_seed(seed), 0
        for _ in range((place - reached) * self._draws):
            torch.randn(self._shape, generator=generator, device=self._device)
        self._reached[seed] = generator, place
        return generator.clone_state()
