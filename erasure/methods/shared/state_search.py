"""States of the text encoder by which a model under training still draws a concept."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from erasure.methods.shared.training_data import Pictures
from erasure.models.diffusion.model import Condition, DiffusionModel
from erasure.training.run import Run

BETAS = (0.9, 0.99)
NEARLY_ZERO = 1e-8
WORDS = 8  # of a random start
POOL = 4  # starts per state


@dataclass(frozen=True)
class Search:
    """How states are searched: uproot's settings of these names."""

    count: int
    steps: int
    rate: float
    images: int
    restart: int


class StateSearch:
    """States (s, n, d) that go down the noise loss of pictures, on the text encoder's set.

    They go on from one training step to the next, Adam's moments with them, so that they follow the
    model. Starts are prompts of the concept, the empty one, random words and the anchors' prompts,
    in turn; `seen` are more prompts among whose states they stay. All draws come from a generator
    per training step, so that every process and every part of a batch searches alike. `carried` is
    all that a run must keep of it.
    """

    def __init__(
        self, model: DiffusionModel, pictures: Pictures, search: Search, run: Run, *,
        seen: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.model, self.pictures, self.search, self.run = model, pictures, search, run
        with torch.no_grad():
            self.starts = model.encode(self._starts())
            self.seen = model.encode(list({*pictures.prompts, *pictures.anchors, "", *seen}))
        self.states = self.starts[: search.count].float().clone()  # Adam's steps are small
        self.mean, self.square = torch.zeros_like(self.states), torch.zeros_like(self.states)
        self.age = torch.zeros(search.count, device=self.states.device)
        self._followed = -1

    @property
    def carried(self) -> dict[str, Tensor]:
        """What changes in place from step to step."""
        return {"states": self.states, "mean": self.mean, "square": self.square, "age": self.age}

    def follow(self, step: int) -> None:
        """Search on against the model as it is at a training step; once in each."""
        if step == self._followed:
            return
        self._followed = step
        generator = self.run.generator_for(f"states {step}")
        for index in self._due(step):
            self._renew(index, step)
        for _ in range(self.search.steps):
            self._descend(generator)

    def conditions(self, numbers: Int[Tensor, " b"]) -> Condition:
        """A state for each of these numbers, in turn."""
        return self.states[numbers.to(self.states.device) % self.search.count].to(self.starts)

    def _starts(self) -> list[str]:
        """The texts at which states start, and start anew."""
        generator, texts = self.run.generator_for("starts of states"), list[str]()
        prompts, anchors = self.pictures.prompts, self.pictures.anchors
        words = self.model.word_tokens
        for number in range(-(-POOL * self.search.count // 4)):
            chosen = words[torch.randint(len(words), (WORDS,), generator=generator)]
            row = number % len(prompts)
            texts += [prompts[row], "", self.model.decode(chosen), anchors[row]]
        return texts

    def _due(self, step: int) -> list[int]:
        """The states that start anew at a step, spread over `restart` steps."""
        count, restart = self.search.count, self.search.restart
        if not restart or not step:
            return []
        return [i for i in range(count) if (step + i * restart // count) % restart == 0]

    @torch.no_grad()
    def _renew(self, index: int, step: int) -> None:
        start = (index + self.search.count * (step // self.search.restart)) % len(self.starts)
        self.states[index] = self.starts[start]
        self.mean[index], self.square[index], self.age[index] = 0, 0, 0

    def _descend(self, generator: torch.Generator) -> None:
        """A step of Adam for all states, by the same noised pictures."""
        model, run, count = self.model, self.run, self.search.count
        rows = torch.randint(len(self.pictures.prompts), (self.search.images,), generator=generator)
        z0 = self.pictures.latents[rows]
        t = run.send(model.random_times(len(rows), generator))
        noise = run.send(torch.randn(z0.shape, generator=generator))
        z0 = run.send(z0)
        z_t, wanted = model.add_noise(z0, noise, t), model.target(z0, noise, t)
        states = self.states.clone().requires_grad_()
        asked = states.to(self.starts).repeat_interleave(len(rows), dim=0)
        said = model.predict(z_t.repeat(count, 1, 1, 1), t.repeat(count), asked)
        # a sum over states, so that each has the gradient of its own mean
        loss = count * F.mse_loss(said, wanted.repeat(count, 1, 1, 1))
        (gradient,) = torch.autograd.grad(loss, [states])
        self._move(gradient)

    @torch.no_grad()
    def _move(self, gradient: Float[Tensor, "s n d"]) -> None:
        self.age += 1
        self.mean.lerp_(gradient, 1 - BETAS[0])
        self.square.lerp_(gradient.square(), 1 - BETAS[1])
        mean, square = (
            moment / (1 - beta**self.age)[:, None, None]
            for moment, beta in zip((self.mean, self.square), BETAS, strict=True)
        )
        moved = self.states - self.search.rate * mean / (square.sqrt() + NEARLY_ZERO)
        self.states.copy_(self.model.onto_states(moved, self.seen))
