"""Noised renders of pocket's concepts, by which a script asks how well a model still draws them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from erasure.models.diffusion.model import DiffusionModel
from erasure.training.progress import shown
from erasure_datasets.canvas import OBJECTS, SPLITS, STYLES, Split, render
from evaluation.drawing.pocket_plan import catalogue

TIMES = torch.arange(50, 1000, 100)


def spread_pairs(name: str, count: int) -> list[tuple[str, str]]:
    """So many of the (object, style) pairs with a concept, in an order that spreads them."""
    pairs = [pair for pair in catalogue().pairs() if name in pair]
    return [pairs[number * 7 % len(pairs)] for number in range(count)]


class Points:
    """Noised renders of one concept after another, `each` of every one, and what they are asked.

    Times are drawn for training renders, and go through `TIMES` for held-out ones.
    """

    def __init__(
        self, model: DiffusionModel, names: Sequence[str], each: int, split: Split
    ) -> None:
        self.names, self.each, self.prompts = list(names), each, list[str]()
        parts = [self._of_one(model, name, split) for name in shown(names, "reading renders")]
        self.z_t, self.t, self.wanted = (
            torch.cat([part[number] for part in parts]) for number in range(3)
        )

    @torch.no_grad()
    def _of_one(self, model: DiffusionModel, name: str, split: Split) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(catalogue().targets().index(name))
        chosen = spread_pairs(name, self.each)
        self.prompts += [catalogue().prompt(*pair) for pair in chosen]
        images = [
            render(OBJECTS.index(pair[0]), STYLES.index(pair[1]), SPLITS[split][number])
            for number, pair in enumerate(chosen)
        ]
        z0 = model.to_latents(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
        t = TIMES.repeat(-(-self.each // len(TIMES)))[: self.each]
        if split == "train":
            t = model.random_times(self.each, generator)
        noise = torch.randn(z0.shape, generator=generator)
        return model.add_noise(z0, noise, t), t, model.target(z0, noise, t)

    def predict(self, model: DiffusionModel, at: list[int], prompts: Sequence[str] = ()) -> Tensor:
        """What the model says at these points, under their own prompts unless others are given."""
        texts = prompts or [self.prompts[index] for index in at]
        return model.predict(self.z_t[at], self.t[at], model.encode(texts))

    @torch.no_grad()
    def errors(self, model: DiffusionModel) -> Tensor:
        """The mean noise error of each concept."""
        found = [
            (self.predict(model, part) - self.wanted[part]).square().flatten(1).mean(1)
            for part in torch.arange(len(self.prompts)).split(32)
            for part in [part.tolist()]
        ]
        return torch.cat(found).view(len(self.names), self.each).mean(1)
