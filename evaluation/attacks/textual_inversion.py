"""Concept inversion: learn a new word on images of the concept, by the erased model's own loss.

Pham, Marshall, Cohen, Mittal, Hegde, "Circumventing Concept Erasure Methods For Text-to-Image
Generative Models" (ICLR 2024), https://arxiv.org/abs/2308.01508, with the textual inversion of
Gal et al. 2022, https://arxiv.org/abs/2208.01618.

    v* = argmin mean (noise - eps(z_t, t, prompt with v* in the concept's place))^2

It needs the weights, so it shows what they still hold rather than what a user could type.

Choices
- Images are latents that the model from before the erasure draws for the concept's own prompts, as
  far as they hold its name as a word and leave room for v*.
- `init` is the word that v* starts from, the concept's own name if it is empty (the mean of its
  tokens' embeddings, where they are several).
- One learned word serves all cases; each is drawn once, with v* in the place of the name.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.errors import SettingError
from erasure.files.storage import read_tensors, write_tensors
from erasure.methods.shared.learned_words import embedding_of
from erasure.models.diffusion.model import DiffusionModel
from erasure.models.diffusion.slots import around, named
from erasure.registry import ATTACKS
from erasure_datasets.concept import Concept
from evaluation.attacking.scene import KEPT, Case, Found, Scene
from evaluation.attacks import Attack

WORD = "*"


@ATTACKS.register
@dataclass(frozen=True)
class TextualInversion(Attack):
    """A learned token embedding."""

    steps: int = setting(1000, quick=20, help="optimiser steps", at_least=1)
    learning_rate: float = setting(5e-3, help="AdamW's learning rate", above=0)
    batch_size: int = setting(4, help="images per step", at_least=1)
    images: int = setting(64, quick=8, help="images of the concept to learn from", at_least=1)
    tokens: int = setting(1, help="vectors of the new word")
    init: str = setting("", help="word to start from; empty: the concept's own name")

    def __post_init__(self) -> None:
        check(self)

    def control(self, prompt: str, concept: Concept) -> tuple[tuple[str, str], int]:
        return around(prompt, concept.name), self.tokens

    def attack(self, scene: Scene, cases: Sequence[Case]) -> list[Found]:
        file = scene.folder / "vectors.safetensors"
        if file.is_file():
            vectors = read_tensors(file)[0]["vectors"].to(scene.model.device)
        else:
            vectors = self.learn(scene)
            if not scene.is_over:
                write_tensors(file, {"vectors": vectors})
        parts = [around(case.prompt, scene.concept.name) for case in cases]
        slotted = scene.model.open_slots(parts, self.tokens)
        with torch.no_grad():
            condition = scene.model.encode_slots(slotted, vectors.expand(len(cases), -1, -1))
        won = scene.wins(condition, cases, KEPT)
        texts = [" ".join(filter(None, (before, WORD, after))) for before, after in parts]
        return [Found(success, 1, text) for success, text in zip(won.tolist(), texts, strict=True)]

    def learn(self, scene: Scene) -> Tensor:
        """The new word's vectors, (k, w)."""
        model, generator = scene.model, scene.generator("textual inversion")
        name = scene.concept.name
        own = (text for text in scene.concept.prompts() if named(text, name))
        prompts = [text for text in own if self._fits(model, around(text, name))] or [name]
        chosen = [prompts[i % len(prompts)] for i in range(self.images)]
        targets = scene.targets(chosen, "inversion images")
        slotted = model.open_slots([around(text, name) for text in chosen], self.tokens)
        vectors = embedding_of(model, self.init or name).repeat(self.tokens, 1)
        vectors.requires_grad_()
        optimiser = torch.optim.AdamW([vectors], lr=self.learning_rate)
        with scene.progress("textual-inversion", self.steps) as bar:
            for _ in range(self.steps):
                if scene.is_over:
                    break
                rows = torch.randint(self.images, (self.batch_size,), generator=generator)
                z_t, t, wanted = scene.lesson(targets, rows, generator)
                condition = model.encode_slots(
                    slotted.rows(rows.to(model.device)), vectors.expand(len(rows), -1, -1)
                )
                loss = scene.finite(F.mse_loss(model.predict(z_t, t, condition), wanted))
                (vectors.grad,) = torch.autograd.grad(loss, [vectors])
                optimiser.step()
                bar.advance(f"loss {loss.item():.4f}")
        return vectors.detach()

    def _fits(self, model: DiffusionModel, place: tuple[str, str]) -> bool:
        """Whether a prompt leaves room for the word."""
        try:
            model.open_slots([place], self.tokens)
        except SettingError:
            return False
        return True
