"""AdvUnlearn: train the text encoder against prompts that bring the concept back.

Changes: the text encoder's layers; any weights with --select.

Zhang, Chen, Jia, Zhang, Fan, Liu, Hong, Ding, Liu, "Defensive Unlearning with Adversarial Training
for Robust Concept Erasure in Diffusion Models" (NeurIPS 2024), https://arxiv.org/abs/2405.15234.

    outer  mean (eps(x_t, t, [d; c]) - target)^2
               + gamma * mean (eps(x_r, t, c_r) - eps_0(x_r, t, c_r))^2
    target eps_0(x_t, t, c_from) - push (eps_0(x_t, t, e) - eps_0(x_t, t, ''))
    inner  d = argmin mean (eps(x_t, t, [d; c]) - eps_0(x_t, t, c))^2
    x_t    a point of the original model's guided path towards c; eps_0 the original model;
           d holds `tokens` free vectors among the prompt's token embeddings

Choices
- The outer target is ESD's, in the terms of esd.py: `push=2, push_from=prompt` is the published one
  with eta = 1. The trained weights are the text encoder's layers and final norm by default, without
  its embeddings, as published; any selection of text or UNet weights may be named.
- The authors sample fresh latents at every inner step. Ours are of `paths` paths kept for the run;
  the inner steps of one attack share them, and the frozen predictions there.
- The authors' inner loop never clears the gradient of d; ours does, unless `accumulate` is set.
- Their signed attack takes Adam steps on the sign; `attack=sign` takes plain signed steps, and
  `attack=fast` one signed step as long as all `attack_steps` together.
- Their layer options match by prefix: layer 1 trains 10 and 11 too. `text.layer.1` is it alone.
- They find the concept by counting words; the slots here lie between tokens (diffusion/slots.py).
- `attack_shared` makes one d for a whole batch of points, prompts and timesteps, which is nearer
  to what an attacker types; the published batch holds one point, where both are the same.
- Their attack returns d from before its last step: 30 steps give 29. Ours takes them all.
- Their sampler stops early: latents are 39 to 58 of 1000 timesteps cleaner than the t the networks
  are told, and forget and retain term share one t. Ours lie at t, and each term has its own.
- Retention is the summed form ("reg"); separate retain steps are not offered.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.methods.shared.paths import (
    Points,
    PushFrom,
    check_push,
    draw_paths,
    original_answers,
    points,
    push_rows,
    retain_loss,
    texts_of,
)
from erasure.models.diffusion.model import DiffusionModel
from erasure.models.diffusion.slots import Placement, Slotted, place
from erasure.registry import METHODS
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.processes import process_count
from erasure.training.run import Run
from erasure_datasets.concept import Concept, retain_prompts


@METHODS.register
@dataclass(frozen=True)
class AdvUnlearn:
    """Adversarial unlearning of the text encoder."""

    steps: int = setting(1000, quick=60, help="optimiser steps", at_least=1)
    learning_rate: float = setting(1e-5, help="Adam's learning rate", above=0)
    batch_size: int = setting(1, help="path points to forget per step", at_least=1)
    retain_batch_size: int = setting(5, help="path points to keep per step", at_least=1)
    retain_weight: float = setting(0.5, help="weight of the retain loss (gamma)", at_least=0)
    push: float = setting(2.0, help="negative guidance (1 + eta in the paper)", at_least=0)
    push_from: PushFrom = setting("prompt", help="what the target starts from and pushes away")
    select: str = setting(
        "text.layers", help="which weights: text.layers, text.layer.N, text.mlp, xattn, full, ..."
    )
    warmup: int = setting(
        200, quick=20, rehearsal=0, help="first steps without an attack", at_least=0
    )
    attack: Literal["adam", "sign", "fast"] = setting("adam", help="how the attack steps")
    attack_steps: int = setting(30, quick=3, help="inner steps of an attack", at_least=1)
    attack_rate: float = setting(1e-3, help="length of an inner step", above=0)
    attack_every: int = setting(
        1, rehearsal=1, help="outer steps that one attack serves", at_least=1
    )
    attack_init: Literal["latest", "random"] = setting(
        "latest", help="start an attack from the last one, or from random tokens"
    )
    attack_shared: bool = setting(False, help="one attack for the batch instead of one per point")
    accumulate: bool = setting(False, help="let inner gradients add up, as the authors' code does")
    tokens: int = setting(1, help="free token vectors (k in the paper)", at_least=1)
    placement: Placement = setting("prefix", help="where the free tokens stand in the prompt")
    guidance: float = setting(3.0, help="guidance of the paths", at_least=0)
    sampling_steps: int = setting(
        50, quick=12, rehearsal=2, help="DDIM steps of a path", at_least=2
    )
    paths: int = setting(64, quick=32, rehearsal=16, help="paths drawn at the start", at_least=1)
    retain_prompts: str = setting(
        "", help="file of prompts (.csv, .txt, .json): what to keep", when="retain_weight"
    )

    def __post_init__(self) -> None:
        check(self)
        check_push("AdvUnlearn", self.push, self.push_from)
        if self.warmup >= self.steps:
            raise SettingError(f"AdvUnlearn.warmup must be below steps; got {self.warmup}.")
        if self.accumulate and (self.attack == "fast" or self.attack_steps == 1):
            raise SettingError("AdvUnlearn.accumulate needs an attack of more than one step.")

    def erase(self, model: DiffusionModel, concepts: list[Concept], run: Run) -> Edit:
        if model.slots_refusal:
            raise SettingError(
                f"advunlearn trains against vectors among a prompt's words, and {model.name} takes "
                f"none: {model.slots_refusal}. Choose another method."
            )
        weights = model.weights(self.select)
        model.remember(list(weights))
        run.hardware.refuse_fp16("advunlearn: its attack's gradients are too small for fp16")
        if self.attack_shared and (run.hardware.gradient_accumulation, process_count()) != (1, 1):
            raise SettingError(
                "AdvUnlearn.attack_shared must be false where batches are computed in parts "
                "(gradient_accumulation, or several processes); got true."
            )
        run.lower(model.parameters())
        rows = push_rows(concepts, self.push_from)
        self._slots(model, [row[0] for row in rows], concepts)  # refuses prompts that leave no room
        texts = retain_prompts(concepts, model.catalogue, self.retain_prompts)
        kept = [(text,) for text in texts]
        forget = draw_paths(self, model, rows, "forget", run)
        retain = draw_paths(self, model, kept, "retain", run)
        shape = self.batch_size, self.tokens, model.token_table.shape[1]
        latest = torch.zeros(shape, device=run.device)

        def loss(step: int) -> dict[str, Tensor]:
            at = points(forget, self.batch_size, run)
            asked, start, pushed, none = original_answers(model, at)
            if step < self.warmup:
                condition = model.encode(at.prompts[0])
            else:
                slotted = self._slots(model, at.prompts[0], concepts)
                if (step - self.warmup) % self.attack_every == 0:
                    first = step == self.warmup
                    found = self._attack(model, slotted, at, asked, None if first else latest, run)
                    run.put(found, latest)
                condition = model.encode_slots(slotted, run.shard(latest))
            wanted = start - self.push * (pushed - none)
            erase = F.mse_loss(model.predict(at.z_t, at.t, condition), wanted)
            left = retain_loss(model, points(retain, self.retain_batch_size, run))
            return {"erase": erase, "retain": self.retain_weight * left}

        with model.memorised(texts_of(rows, kept), encoders_rest=False):
            fit(
                Learner(loss, weights, self.learning_rate, start=model.originals),
                steps=self.steps, run=run, carried={"latest": latest},
            )  # fmt: skip
        return Edit.between(model, concepts, "advunlearn", asdict(self))

    def _attack(
        self, model: DiffusionModel, slotted: Slotted, at: Points, asked: Tensor,
        latest: Tensor | None, run: Run,
    ) -> Tensor:  # fmt: skip
        """Vectors (b, k, w) under which the edited model predicts what the original one did."""
        if latest is None or self.attack_init == "random":
            special = set(model.special_tokens)
            words = [i for i in range(len(model.token_table)) if i not in special]
            shape = (self.batch_size, self.tokens)
            chosen = torch.tensor(words)[torch.randint(len(words), shape, generator=run.generator)]
            start = model.token_table[run.shard(chosen)]
        else:
            start = run.shard(latest)
        vectors = (start[:1] if self.attack_shared else start).detach().float().clone()
        vectors.requires_grad_(True)
        optimiser = torch.optim.Adam([vectors], lr=self.attack_rate)
        held = torch.zeros_like(vectors)
        for _ in range(1 if self.attack == "fast" else self.attack_steps):
            condition = model.encode_slots(slotted, vectors.expand(len(slotted), -1, -1))
            distance = (model.predict(at.z_t, at.t, condition) - asked).square()
            (gradient,) = torch.autograd.grad(distance.flatten(1).mean(1).sum(), [vectors])
            gradient = gradient + held if self.accumulate else gradient
            if self.attack == "adam":
                vectors.grad = gradient
                optimiser.step()
            else:
                gradient = gradient.sign()
                length = self.attack_rate * (self.attack_steps if self.attack == "fast" else 1)
                vectors.data.sub_(length * gradient)
            held = gradient
        return vectors.detach().expand(len(slotted), -1, -1)

    def _slots(
        self, model: DiffusionModel, prompts: Sequence[str], concepts: list[Concept]
    ) -> Slotted:
        names = [concept.name for concept in concepts]
        parts = [place(prompt, self.placement, names) for prompt in prompts]
        return model.open_slots(parts, self.tokens)
