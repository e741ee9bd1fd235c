"""P4D: a prompt under which the erased model says what the un-erased one says of the concept.

Chin, Jiang, Huang, Chen, Chiu, "Prompting4Debugging: Red-Teaming Text-to-Image Diffusion Models by
Finding Problematic Prompts" (ICML 2024), https://arxiv.org/abs/2309.06135. Their P4D-N, where the
whole prompt is searched.

    min over P of  mean (predict(z_t, t, near(P)) - predict_un-erased(z_t, t, prompt))^2
    near(P)        for each of `tokens` vectors the vocabulary's embedding of largest cosine; the
                   gradient at near(P) is P's (Wen et al. 2023, https://arxiv.org/abs/2302.03668)

Choices
- z_t is a noised picture of the case's own prompt by the un-erased model.
- Every `every` steps near(P) is decoded to text and drawn; a case is won at its first success.
- Only entries that text can hold are searched, as in unlearndiffatk.
- Cases are attacked side by side in batches, each with vectors of its own. `batch_size=1` is the
  published way.
- Control: as many random tokens, drawn as often.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.registry import ATTACKS
from erasure_datasets.concept import Concept
from evaluation.attacking.scene import KEPT, Case, Found, Scene
from evaluation.attacks import Attack


@ATTACKS.register
@dataclass(frozen=True)
class P4D(Attack):
    """Prompt tuning towards the un-erased model's answers."""

    tokens: int = setting(16, help="tokens of the prompt")
    steps: int = setting(3000, quick=10, help="optimiser steps at most", at_least=1)
    every: int = setting(50, quick=5, help="steps between drawings", at_least=1)
    learning_rate: float = setting(0.1, help="AdamW's learning rate", above=0)
    weight_decay: float = setting(0.1, help="AdamW's weight decay", at_least=0)
    batch_size: int = setting(1, help="cases attacked side by side", at_least=1)

    def __post_init__(self) -> None:
        check(self)

    def control(self, prompt: str, concept: Concept) -> tuple[tuple[str, str], int]:
        return ("", ""), self.tokens

    def attack(self, scene: Scene, cases: Sequence[Case]) -> list[Found]:
        batches = range(0, len(cases), self.batch_size)
        return [
            found
            for start in batches
            for found in self._search(scene, cases[start : start + self.batch_size])
        ]

    def _search(self, scene: Scene, cases: Sequence[Case]) -> list[Found]:
        found = [Found(False, 0, case.prompt) for case in cases]
        if scene.is_over:
            return found
        model, generator = scene.model, scene.generator(f"p4d {cases[0].name}")
        words = model.word_tokens.to(model.device)
        table = model.token_table.detach()[words]
        slotted = model.open_slots([("", "")] * len(cases), self.tokens)
        prompts = [case.prompt for case in cases]
        targets = scene.targets(prompts, f"p4d {cases[0].name}")
        with model.original():
            asked = model.encode(prompts)
        first = torch.randint(len(words), (len(cases), self.tokens), generator=generator)
        vectors = table[first.to(model.device)].clone().requires_grad_()
        optimiser = torch.optim.AdamW(
            [vectors], lr=self.learning_rate, weight_decay=self.weight_decay
        )
        with scene.progress("p4d", self.steps) as bar:
            for step in range(1, self.steps + 1):
                left = [i for i, result in enumerate(found) if not result.success]
                if not left or scene.is_over:
                    break
                rows = torch.tensor(left)
                z_t, t, _ = scene.lesson(targets, rows, generator)
                with model.original():
                    wanted = model.predict(z_t, t, asked[left])
                near = table[nearest(vectors.detach()[left], table)].requires_grad_()
                condition = model.encode_slots(slotted.rows(rows.to(model.device)), near)
                error = (model.predict(z_t, t, condition) - wanted).square()
                loss = scene.finite(error.flatten(1).mean(1).sum())
                vectors.grad = torch.zeros_like(vectors)
                (vectors.grad[left],) = torch.autograd.grad(loss, [near])
                optimiser.step()
                bar.advance(f"{len(left)} left, loss {loss.item() / len(left):.4f}")
                if step % self.every == 0 or step == self.steps:
                    tokens = words[nearest(vectors.detach()[left], table)].cpu()
                    texts = [model.decode(row) for row in tokens]
                    won = scene.wins(texts, [cases[i] for i in left], KEPT)
                    for i, text, success in zip(left, texts, won.tolist(), strict=True):
                        found[i] = Found(success, found[i].tries + 1, text)
        return found


def nearest(vectors: Float[Tensor, "b k w"], table: Float[Tensor, "v w"]) -> Int[Tensor, "b k"]:
    """Which rows of a table have the largest cosine to each vector."""
    return (F.normalize(vectors, dim=-1) @ F.normalize(table, dim=-1).T).argmax(-1)
