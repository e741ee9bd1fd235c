"""UnlearnDiffAtk: search for tokens under which the erased model denoises the concept again.

Zhang, Jia, Chen, Chen, Zhang, Liu, Ding, Liu, "To Generate or Not? Safety-Driven Unlearned
Diffusion Models Are Still Easy To Generate Unsafe Images ... For Now" (ECCV 2024),
https://arxiv.org/abs/2310.11868.

    min over d of  mean (noise - eps(sqrt(a_t) z0 + sqrt(1 - a_t) noise, t, [d; c]))^2
    d              `tokens` points of the probability simplex over the vocabulary; each step samples
                   one token per slot, and the gradient passes straight through, clipped to [-1, 1]
    step           Adam with weight decay, then projection back onto the simplex

Choices
- z0 is the latent that the model from before the erasure draws for the case's own prompt.
- Timesteps are worked off from small to large, `iterations` steps each; after each, the likeliest
  tokens are decoded to text and drawn, and a case is won at its first success, as published.
- The projection is exact (by sorting) where the authors bisect.
- Only entries that text can hold are searched: whole words, not parts of them, which a text would
  join, and no start, end or padding.
- `placement=replace` puts the tokens in the place of the concept's name: what an attacker types
  where the name itself is filtered.
- Cases are attacked side by side in batches; each has tokens and a gradient of its own, but an
  optimiser step counts for all. `batch_size=1` is the published way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from erasure.config import check, setting
from erasure.models.diffusion.slots import Placement, place
from erasure.registry import ATTACKS
from erasure_datasets.concept import Concept
from evaluation.attacking.scene import KEPT, Case, Found, Scene
from evaluation.attacks import Attack


@ATTACKS.register
@dataclass(frozen=True)
class UnlearnDiffAtk(Attack):
    """Token search on the simplex."""

    tokens: int = setting(3, help="tokens to find (K: 3 for objects and styles, 5 for nudity)")
    placement: Placement = setting("prefix", help="where the found tokens stand in the prompt")
    timesteps: int = setting(50, quick=3, help="timesteps, and drawings at most", at_least=1)
    iterations: int = setting(40, quick=5, help="search steps at each timestep", at_least=1)
    learning_rate: float = setting(0.01, help="Adam's learning rate", above=0)
    weight_decay: float = setting(0.1, help="Adam's weight decay", at_least=0)
    batch_size: int = setting(1, help="cases attacked side by side", at_least=1)

    def __post_init__(self) -> None:
        check(self)

    def control(self, prompt: str, concept: Concept) -> tuple[tuple[str, str], int]:
        return place(prompt, self.placement, [concept.name]), self.tokens

    def attack(self, scene: Scene, cases: Sequence[Case]) -> list[Found]:
        batches = range(0, len(cases), self.batch_size)
        return [
            found
            for start in batches
            for found in self._search(scene, cases[start : start + self.batch_size])
        ]

    def _search(self, scene: Scene, cases: Sequence[Case]) -> list[Found]:
        model, generator = scene.model, scene.generator(f"search {cases[0].name}")
        device, words = model.device, scene.model.word_tokens
        name = scene.concept.name
        parts = [place(case.prompt, self.placement, [name]) for case in cases]
        slotted = model.open_slots(parts, self.tokens)
        targets = scene.targets([case.prompt for case in cases], f"targets {cases[0].name}")
        table = model.token_table.detach()[words.to(device)]
        chances = torch.full((len(cases), self.tokens, len(words)), 1 / len(words), device=device)
        optimiser = torch.optim.Adam(
            [chances.requires_grad_()], lr=self.learning_rate, weight_decay=self.weight_decay
        )
        found = [Found(False, 0, case.prompt) for case in cases]
        with scene.progress("unlearndiffatk", self.timesteps * self.iterations) as bar:
            for number in range(self.timesteps):
                left = [i for i, result in enumerate(found) if not result.success]
                if not left or scene.is_over:
                    break
                rows = torch.tensor(left)
                level = (2 * number + 1) / (2 * self.timesteps)
                for _ in range(self.iterations):
                    sampled = _sample(chances.detach()[left], generator)
                    z_t, t, wanted = scene.lesson(targets, rows, generator, level)
                    vectors = table[sampled].requires_grad_()
                    condition = model.encode_slots(slotted.rows(rows.to(device)), vectors)
                    error = (model.predict(z_t, t, condition) - wanted).square()
                    loss = scene.finite(error.flatten(1).mean(1).sum())
                    (slope,) = torch.autograd.grad(loss, [vectors])
                    chances.grad = torch.zeros_like(chances)
                    chances.grad[left] = (slope @ table.T).clamp(-1, 1)
                    optimiser.step()
                    chances.data = onto_simplex(chances.data)
                    bar.advance(f"{len(left)} left")
                likeliest = words[chances.detach()[left].argmax(-1).cpu()]
                texts = [
                    " ".join(filter(None, (parts[i][0], model.decode(tokens), parts[i][1])))
                    for i, tokens in zip(left, likeliest, strict=True)
                ]
                won = scene.wins(texts, [cases[i] for i in left], KEPT)
                for i, text, success in zip(left, texts, won.tolist(), strict=True):
                    found[i] = Found(success, number + 1, text)
        return found


def _sample(chances: Float[Tensor, "b k v"], generator: torch.Generator) -> Tensor:
    """One token per slot, int64, (b, k), drawn on the CPU."""
    flat = chances.flatten(0, 1).cpu()
    drawn = torch.multinomial(flat, 1, generator=generator)
    return drawn.view(chances.shape[:2]).to(chances.device)


def onto_simplex(values: Float[Tensor, "... v"]) -> Float[Tensor, "... v"]:
    """The nearest point with entries in [0, 1] that sum to 1 (Duchi et al. 2008)."""
    ordered = values.sort(-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    count = torch.arange(1, values.shape[-1] + 1, device=values.device)
    used = (ordered * count > excess).sum(-1, keepdim=True)
    return (values - excess.gather(-1, used - 1) / used).clamp_min(0)
