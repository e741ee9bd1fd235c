"""A miniature flow-matching model in float64: what a family of models must say."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from erasure.models.diffusion.model import DiffusionModel, SampledPath, guided

LETTERS, SHIFT = 24, 3.0


class Velocity(nn.Module):
    """Two convolutions, with time and the mean of the text between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = (nn.Conv2d(*sizes, 3, padding=1) for sizes in ((2, 8), (8, 2)))
        self.text = nn.Linear(7, 8)

    def forward(self, z_t: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        told = self.text(torch.cat([condition.mean(1), sigma[:, None]], dim=1))
        return self.last((self.first(z_t) + told[:, :, None, None]).tanh())


class MiniatureFlow(DiffusionModel):
    """z_t = (1 - sigma) z0 + sigma noise, sigma = t / 1000; the network gives noise - z0.

    Paths are Euler's. Like a guidance-distilled model it draws them without the empty prompt.
    """

    selections: ClassVar = {"full": r"^transformer\."}
    backbone_name, timesteps = "transformer", 1000
    name, folder, catalogue = "miniature-flow", None, None
    latent_shape, resolution, device = (2, 4, 4), 8, torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.table = torch.randn(256, 6, dtype=torch.float64)
            self._backbone = Velocity().double().requires_grad_(False)

    @property
    def backbone(self) -> nn.Module:
        return self._backbone

    def parameters(self) -> dict[str, nn.Parameter]:
        return {f"transformer.{name}": p for name, p in self._backbone.named_parameters()}

    def module(self, name: str) -> nn.Module:
        return self._backbone.get_submodule(name.partition(".")[2])

    def encode(self, prompts: Sequence[str]) -> Tensor:
        cut = [prompt.ljust(LETTERS)[:LETTERS].encode() for prompt in prompts]
        return self.table[torch.tensor([list(letters) for letters in cut])]

    def levels(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = (t.double() / self.timesteps).view(-1, 1, 1, 1)
        return 1 - sigma, sigma

    def target(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:  # noqa: ARG002
        return noise - z0

    def predict(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        asked = z_t.double(), t.double() / self.timesteps, condition
        if not self.asks_original:
            return self._backbone(*asked)
        kept = self.kept("transformer.", self._backbone)
        return functional_call(self._backbone, kept, asked)

    def denoised(self, z_t: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        return z_t - self.levels(t)[1] * prediction

    def random_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Logit-normal (Esser et al. 2024, https://arxiv.org/abs/2403.03206)."""
        return torch.randn(count, generator=generator).sigmoid() * self.timesteps

    def descent(self, steps: int) -> tuple[Tensor, Tensor]:
        even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        sigmas = SHIFT * even / (1 + (SHIFT - 1) * even)
        return sigmas[:-1] * self.timesteps, torch.stack([1 - sigmas[1:], sigmas[1:]])

    @torch.no_grad()
    def sample_path(
        self, condition: Tensor, *, steps: int, guidance: float, noise: Tensor
    ) -> SampledPath:
        times, arrivals = self.descent(steps)
        z, path, asked = noise.double(), [], []
        empty = self.encode([""]).expand_as(condition)
        for time, after in zip(times, arrivals[1], strict=True):
            t = time.expand(len(z))
            path.append(z)
            asked.append(self.predict(z, t, condition))
            step = after - time / self.timesteps
            z = z + step * guided(self, z, t, condition, empty, guidance)
        return SampledPath(torch.stack(path), z, times, torch.stack(asked), None)

    def memorised(self, *_: object, **__: object) -> AbstractContextManager[None]:
        return nullcontext()

    def use_scheduler(self, name: str) -> None:
        pass

    def _none(self, *_: object, **__: object) -> Any:
        raise NotImplementedError

    states = check_window = beyond_window = token_count = open_slots = encode_slots = decode = _none
    to_latents = to_images = generate = use_resolution = gradient_checkpointing = _none
    onto_states = pooled = text_parts = _none
    middle = property(_none)
    token_table = special_tokens = word_tokens = property(_none)
