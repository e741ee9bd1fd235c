"""Latent inversion: find the noise from which the erased model draws a picture of the concept.

Latent inversion is the white-box half of M-ErasureBench (2025), https://arxiv.org/abs/2512.22877.
The empty prompt is asked all along, so that no word stands in the way.

    x_T = DDIM of the erased model walked backwards from x_0, a picture by the un-erased one
    x_T <- x_T - learning_rate * Adam's step down ||D(x_T) - x_0||^2,    D: `steps` steps of DDIM

Choices
- Backwards, the noise at a latent is what the model says there, and x_0 stands at the last step.
- Any picture has a start that comes near it, in a model that knows it or not. So the record has the
  PSNR beside that of pictures of the anchor, and of the concept's own pictures upside down, which
  no model has seen; and `energy`, ||x_T||^2 / 2, beside noise's: a start far from it is no noise.
- On pocket, 8 steps walked back alone win 7 of 8 cases of a model that never knew a tower, and 4
  after UCE; refined, both fall whole. A rate says something only as the `excess` beside gold's.
- `project` keeps each start at the mean length of noise, sqrt(d).
- Control: pictures of the anchor, judged as the concept.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from erasure.config import check, setting
from erasure.files.storage import read_tensors, write_tensors
from erasure.models.diffusion.model import DiffusionModel
from erasure.registry import ATTACKS
from evaluation.attacking.scene import KEPT, Case, Found, Scene
from evaluation.attacks import Attack

PLACES = {"concept": KEPT, "anchor": "control", "upside_down": "upside down"}


@ATTACKS.register
@dataclass(frozen=True)
class LatentInversion(Attack):
    """A start for pictures of the concept."""

    walks_path: ClassVar[bool] = True

    steps: int = setting(16, quick=3, help="sampling steps", at_least=2)
    refine: int = setting(100, quick=2, help="steps of gradient descent on the start", at_least=0)
    learning_rate: float = setting(0.02, help="Adam's learning rate", above=0, when="refine")
    project: bool = setting(True, help="keep each start at the mean length of noise")
    batch_size: int = setting(1, help="cases side by side", at_least=1)

    def __post_init__(self) -> None:
        check(self)

    def attack(self, scene: Scene, cases: Sequence[Case]) -> list[Found]:
        won = self._redraw(scene, cases, scene.pictures(cases, "latent inversion"), "concept")
        return [Found(yes, 1, "(a start)") for yes in won]

    def decoy(self, scene: Scene, cases: Sequence[Case]) -> list[bool]:
        unknown = scene.pictures(cases, "latent inversion").flip(2)
        self._redraw(scene, cases, unknown, "upside_down")
        return self._redraw(scene, cases, scene.decoys(cases, "latent inversion"), "anchor")

    def told(
        self, scene: Scene, cases: Sequence[Case], entries: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Means of PSNR and energy, by the pictures that were drawn again."""
        half = math.prod(scene.model.latent_shape) / 2
        energy = {"noise": half, "noise_deviation": half**0.5}
        psnr = {}
        for what in PLACES:
            files = sorted(scene.folder.glob(f"{what}-*.safetensors"))
            parts = [read_tensors(file)[0] for file in files]
            if parts:
                psnr[what] = torch.cat([part["psnr"] for part in parts]).mean().item()
                starts = torch.cat([part["starts"] for part in parts])
                energy[what] = starts.flatten(1).square().sum(1).mean().item() / 2
        return {"psnr": psnr, "energy": energy}

    def _redraw(self, scene: Scene, cases: Sequence[Case], z0: Tensor, what: str) -> list[bool]:
        model = scene.model
        parts = [self._start(scene, part) for part in z0.split(self.batch_size)]
        starts = torch.cat(parts)
        with torch.no_grad():
            images = model.to_images(self._draw(scene, starts))
        wanted = model.to_images(z0)
        error = (images.double() - wanted.double()).square().flatten(1).mean(1)
        psnr = 10 * (255**2 / error.clamp(min=1e-6)).log10()
        file = scene.folder / f"{what}-{cases[0].name}.safetensors"
        write_tensors(file, {"starts": starts, "psnr": psnr})
        return scene.judged(images, cases, PLACES[what]).tolist()

    def _start(self, scene: Scene, z0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Where the erased model's path to z0 begins."""
        x = self._on_sphere(walked_back(scene.model, z0, self.steps)).requires_grad_()
        optimiser = torch.optim.Adam([x], lr=self.learning_rate)
        with scene.progress("latent-inversion", self.refine) as bar:
            for _ in range(self.refine):
                if scene.is_over:
                    break
                error = (self._draw(scene, x) - z0).square().flatten(1).mean(1)
                (x.grad,) = torch.autograd.grad(scene.finite(error.sum()), [x])
                optimiser.step()
                with torch.no_grad():
                    x.copy_(self._on_sphere(x))
                bar.advance(f"error {error.mean().item():.4f}")
        return x.detach()

    def _draw(self, scene: Scene, x: Tensor) -> Tensor:
        return scene.model.continue_path(
            x, scene.model.encode([""] * len(x)), steps=self.steps, guidance=1.0,
            generator=scene.generator("latent inversion"),
        )  # fmt: skip

    def _on_sphere(self, x: Tensor) -> Tensor:
        if not self.project:
            return x
        length = x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return x * (x[0].numel() ** 0.5 / length)


@torch.no_grad()
def walked_back(model: DiffusionModel, z0: Float[Tensor, "b c h w"], steps: int) -> Tensor:
    """The latents before the first of `steps` DDIM steps, under the empty prompt."""
    times, _ = model.descent(steps)
    condition, z = model.encode([""] * len(z0)), z0
    for now, above in zip(times.flip(0)[:-1], times.flip(0)[1:], strict=True):
        t = now.expand(len(z))
        signal, spread = model.levels(t)
        clean = model.denoised(z, model.predict(z, t, condition), t)
        z = model.add_noise(clean, (z - signal * clean) / spread, above.expand(len(z)))
    return z
