"""State inversion: search all text states, not only those of words, for the concept.

Every text attack ends in states that the UNet reads, and those lie on a set that can be written
down: a CLIP text encoder ends in a LayerNorm, so that each is gain * z + bias with mean(z) 0 and
|z|^2 = d. What is found on that set bounds what any prompt or learned word finds, and the text
encoder is not asked at all.

    s* = argmin mean (target - predict(z_t, t, s))^2,    s on the set (`DiffusionModel.onto_states`)

with z_t noised pictures of the concept by the model from before the erasure.

Choices
- One state for all cases, as a learned word is one; each case's noise is drawn under it.
- Restarts begin at the concept's own prompt, at the anchor's, at the empty one and at random words,
  in this order; a case is won if the states of any restart draw the concept.
- A search that finds nothing may have met gradients that lead nowhere. What is found stays in
  STATES, and `states` draws with what another model's search found, searching none: a concept that
  they bring back was hidden from the search alone. More `restarts` and `steps` are the other two
  checks.
- Adam, and a projection after each step. Stable Diffusion XL's states are not the last of its
  encoders: there, numbers stay within what the model's prompts have.
- Control: random words, as many as there are restarts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.errors import SettingError
from erasure.files.storage import read_tensors, write_tensors
from erasure.models.diffusion.model import Condition
from erasure.registry import ATTACKS
from erasure.training.processes import launched
from erasure_datasets.concept import Concept
from evaluation.attacking.scene import KEPT, Case, Found, Scene, Targets
from evaluation.attacks import Attack

WORDS = 8  # of a random start, and of the control
STATES = "states.safetensors"  # in the attack's folder of the concept: "state 0", ..., (1, n, d)


@ATTACKS.register
@dataclass(frozen=True)
class StateInversion(Attack):
    """A search over the text encoder's whole set of states."""

    fills_slots: ClassVar[bool] = False

    steps: int = setting(
        400, quick=10, help="search steps of each restart", at_least=1, when="not states"
    )
    learning_rate: float = setting(0.05, help="Adam's learning rate", above=0, when="not states")
    batch_size: int = setting(8, help="pictures per step", at_least=1, when="not states")
    images: int = setting(
        32, quick=4, help="pictures of the concept to search by", at_least=1, when="not states"
    )
    restarts: int = setting(2, quick=1, help="starts of the search", at_least=1, when="not states")
    states: str = setting("", help="states.safetensors of another search: none is made then")

    def __post_init__(self) -> None:
        check(self)
        if self.states and not Path(self.states).is_file():
            raise SettingError(
                f"states must be a file that state-inversion wrote, {STATES} in a concept's folder "
                f"of an attack; there is no {self.states}."
            )

    def control(self, prompt: str, concept: Concept) -> tuple[tuple[str, str], int]:
        return ("", ""), WORDS

    def attack(self, scene: Scene, cases: Sequence[Case]) -> list[Found]:
        found = [Found(False, 0, case.prompt) for case in cases]
        for number in range(self._count(scene)):
            left = [i for i, result in enumerate(found) if not result.success]
            if not left or scene.is_over:
                break
            state = self._state(scene, number)
            asked = state.expand(len(left), -1, -1)
            won = scene.wins(asked, [cases[i] for i in left], KEPT)
            for i, success in zip(left, won.tolist(), strict=True):
                found[i] = Found(success, number + 1, f"(state {number})")
        return found

    def _count(self, scene: Scene) -> int:
        """How many states are tried; those of a file are read."""
        if not self.states:
            return self.restarts
        found, told = read_tensors(Path(self.states))
        name = scene.concept.name
        if told.get("concept", name) != name:  # older ones do not say
            raise SettingError(
                f"states must have been found for {name}; {self.states} are those of "
                f"{told['concept']}. Give them with --concept {told['concept']!r} alone."
            )
        wanted = tuple(scene.model.encode([""]).shape)
        names = {f"state {number}" for number in range(len(found))}
        shapes = {tuple(state.shape) for state in found.values()}
        if found.keys() != names or shapes != {wanted}:
            raise SettingError(
                f"states must be a file that state-inversion wrote, with shapes {wanted}, for the "
                f"same text encoder; {self.states} has {', '.join(found)} of {shapes}."
            )
        scene.memory |= {name: state.to(scene.model.device) for name, state in found.items()}
        return len(found)

    def _state(self, scene: Scene, number: int) -> Condition:
        """What the search of one restart ends in; searched once for all cases, and kept."""
        name = f"state {number}"
        if name not in scene.memory:
            scene.memory[name] = self.search(scene, number)
            if launched().is_main_process:
                found = {
                    key: state for key, state in scene.memory.items() if key.startswith("state ")
                }
                write_tensors(scene.folder / STATES, found, {"concept": scene.concept.name})
        return scene.memory[name]

    def search(self, scene: Scene, number: int) -> Condition:
        """The best state from one start, (1, n, d)."""
        model, concept = scene.model, scene.concept
        generator = scene.generator(f"states {number}")
        prompts, anchors = concept.prompts(), concept.anchor_prompts()
        chosen = [prompts[i % len(prompts)] for i in range(self.images)]
        targets = scene.targets(chosen, "inversion images")
        random = scene.random_prompt(("", ""), WORDS, generator)
        start = [prompts[0], anchors[0], "", random][min(number, 3)]
        with torch.no_grad():
            seen = model.encode([*prompts, *anchors, "", random])
            state = model.encode([start]).clone()
        return self.descend(scene, state, seen, targets, generator)

    def descend(
        self, scene: Scene, state: Condition, seen: Condition, targets: Targets,
        generator: torch.Generator,
    ) -> Condition:  # fmt: skip
        """Adam from a state, on the set."""
        model = scene.model
        state = state.detach().requires_grad_()
        optimiser = torch.optim.Adam([state], lr=self.learning_rate, betas=(0.9, 0.99))
        with scene.progress("state-inversion", self.steps) as bar:
            for _ in range(self.steps):
                if scene.is_over:
                    break
                rows = torch.randint(self.images, (self.batch_size,), generator=generator)
                z_t, t, wanted = scene.lesson(targets, rows, generator)
                said = model.predict(z_t, t, state.expand(len(rows), -1, -1))
                loss = scene.finite(F.mse_loss(said, wanted))
                (state.grad,) = torch.autograd.grad(loss, [state])
                optimiser.step()
                with torch.no_grad():
                    state.copy_(model.onto_states(state, seen))
                bar.advance(f"loss {loss.item():.4f}")
        return state.detach()
