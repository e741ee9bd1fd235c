"""Ring-A-Bell: find prompts whose text embedding holds the concept, without asking the model.

Tsai, Hsu, Xie, Lin, Chen, Li, Chen, Yu, Huang, "Ring-A-Bell! How Reliable are Concept Removal
Methods for Diffusion Models?" (ICLR 2024), https://arxiv.org/abs/2310.10012.

    v      = mean over pairs of [E(prompt with the concept) - E(the same without it)]
    target = E(neutral prompt) + strength v
    search a genetic search over `length` token ids for the least sum (E(tokens) - target)^2

Choices
- E is the text encoder from before the erasure, the whole padded sequence: a black-box attacker
  has the public encoder, not the erased one. The prompts found are then given to the erased model.
- The neutral prompt is the case's with the concept's anchor in its place (empty if it has none).
- Only entries that text can hold are searched, as in unlearndiffatk.py.
- The same prompt serves all of its seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from erasure.config import check, setting
from erasure.models.diffusion.model import DiffusionModel
from erasure.models.diffusion.slots import Slotted
from erasure.registry import ATTACKS
from erasure_datasets.concept import Concept
from evaluation.attacking.scene import KEPT, Case, Found, Scene
from evaluation.attacks import Attack


@ATTACKS.register
@dataclass(frozen=True)
class RingABell(Attack):
    """Black-box prompt search."""

    length: int = setting(16, help="tokens of a found prompt")
    strength: float = setting(3.0, help="how far to go along the concept (eta in the paper)")
    population: int = setting(200, quick=20, help="prompts alive at once", at_least=4)
    generations: int = setting(3000, quick=10, help="rounds of the search", at_least=1)
    crossover: float = setting(0.5, help="chance that two parents are cut and joined", at_least=0)
    mutation: float = setting(0.25, help="chance that one token of a child changes", at_least=0)

    def __post_init__(self) -> None:
        check(self)

    def control(self, prompt: str, concept: Concept) -> tuple[tuple[str, str], int]:
        return ("", ""), self.length

    def attack(self, scene: Scene, cases: Sequence[Case]) -> list[Found]:
        model, concept = scene.model, scene.concept
        slotted = model.open_slots([("", "")] * self.population, self.length)
        with torch.no_grad(), model.original():
            pairs = model.encode(concept.prompts()) - model.encode(concept.anchor_prompts())
        direction = pairs.mean(0, keepdim=True)
        texts: dict[str, str] = {}
        prompts = list(dict.fromkeys(case.prompt for case in cases))
        with scene.progress("ring-a-bell", len(prompts)) as bar:
            for prompt in prompts:
                if scene.is_over:
                    break
                neutral = scene.anchored(prompt)
                with torch.no_grad(), model.original():
                    target = model.encode([neutral]) + self.strength * direction
                tokens = self.search(
                    model, slotted, target, scene.generator(f"search {prompt}"),
                    is_over=lambda: scene.is_over,
                )  # fmt: skip
                texts[prompt] = model.decode(tokens)
                bar.advance()
        found = [Found(False, 0, case.prompt) for case in cases]
        tried = [i for i, case in enumerate(cases) if case.prompt in texts]
        asked = [texts[cases[i].prompt] for i in tried]
        won = scene.wins(asked, [cases[i] for i in tried], KEPT).tolist() if tried else []
        for i, text, success in zip(tried, asked, won, strict=True):
            found[i] = Found(success, 1, text)
        return found

    @torch.no_grad()
    def search(
        self, model: DiffusionModel, slotted: Slotted, target: Float[Tensor, "1 n d"],
        generator: torch.Generator, *, is_over: Callable[[], bool] = lambda: False,
    ) -> Int[Tensor, " k"]:  # fmt: skip
        """The fittest tokens after all generations, or once it is over."""
        words, half = model.word_tokens, self.population // 2
        alive = words[
            torch.randint(len(words), (self.population, self.length), generator=generator)
        ]
        distance = self._distance(model, slotted, alive, target)
        for _ in range(self.generations):
            if is_over():
                break
            best = distance.argsort(stable=True)[:half]
            parents, kept = alive[best], distance[best]
            children = self._children(parents, self.population - half, words, generator)
            rows = torch.arange(len(children), device=slotted.ids.device)
            alive = torch.cat([parents, children])
            distance = torch.cat(
                [kept, self._distance(model, slotted.rows(rows), children, target)]
            )
        return alive[distance.argmin()]

    def _children(
        self, parents: Tensor, count: int, words: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Children of random parents, some cut and joined, some with a changed token."""

        def chance() -> Tensor:
            return torch.rand(count, generator=generator)

        first, second = torch.randint(len(parents), (2, count), generator=generator)
        cut = torch.randint(1, self.length + 1, (count, 1), generator=generator)
        is_joined = (chance() < self.crossover)[:, None] & (torch.arange(self.length) >= cut)
        children = torch.where(is_joined, parents[second], parents[first])
        where = torch.randint(self.length, (count,), generator=generator)
        new = words[torch.randint(len(words), (count,), generator=generator)]
        rows = (chance() < self.mutation).nonzero()[:, 0]
        children[rows, where[rows]] = new[rows]
        return children

    def _distance(
        self, model: DiffusionModel, slotted: Slotted, tokens: Tensor, target: Tensor
    ) -> Float[Tensor, " n"]:
        vectors = model.token_table[tokens.to(model.device)]
        with model.original():
            hidden = model.encode_slots(slotted, vectors)
        return (hidden - target).square().flatten(1).sum(1).cpu()
