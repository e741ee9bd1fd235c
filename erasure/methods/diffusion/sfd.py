"""SFD: forget a concept while distilling to a generator that draws in one step.

Changes: the whole UNet, which becomes a one-step generator.

Chen, Zhang, Zhou, "Score Forgetting Distillation: A Swift, Data-Free Method for Machine Unlearning
in Diffusion Models" (ICLR 2025), https://arxiv.org/abs/2409.11219.

    fake score   lambda_r L(c_r) + lambda_f L(c_f),        L = sum (eps_psi(z_t, t, c) - eps)^2
    generator    mu_r l(c_r; c_r, c_r) + mu_f l(c_f; c_o, c_f)       (l: see score_identity.py)

l(c_g; c_p, c_psi) draws under c_g and asks the teacher under c_p, the fake score under c_psi: where
the generator is asked for the concept c_f, the teacher answers for what shall be drawn instead,
c_o. c_r are prompts to keep. No image is used. Both losses are the mean over the half of a batch
that is to be forgotten plus the mean over the half to be kept.

Choices
- Every step draws once, and the fake score and the generator both learn from that drawing; the
  authors draw afresh for each. The forget and the retain half share one call of every network.
- Of a share `dropout` the fake score learns what the generator draws under the empty prompt, as in
  the authors' code; the generator's own loss keeps these rows' prompts.
- `clip` bounds the gradients of both networks, as their DDPM loop does; their Stable Diffusion loop
  bounds the generator's alone, and only in fp16 (`clip=1e9` is theirs in float32).
- `override` says what c_o is: the prompt with the concept's anchor; the prompt itself with the
  concept's name in the teacher's unconditional slot ("negative"); or the anchor with that ("both").
  The name is told to the teacher alone, as by the authors' default; their published command for
  nudity also puts it into the fake score's empty slot, which is not offered.
- `guidance` is the teacher's, `fake_guidance` the fake score's, in its training and in the
  generator's loss: the published long and short guidance is 4.5 for all of them, and a fake score
  without guidance costs a third less.
- The networks' noise is in the model's epsilon terms, also for v-prediction, where the authors'
  code loses its target.
- The teacher is the model itself. Their second stage took the first one's fake score for it.
- The erased rate is counted over the concept's own images alone (their script divides by all).
- Losses or gradients that are not finite, the fake score's too, end the run; the authors zero them.
- Without a generator for the model, one is distilled first: see distilling.py.
"""

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from erasure.config import check, setting
from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.methods.shared.aligned_prompts import aligned_prompts
from erasure.methods.shared.distilling import distil
from erasure.methods.shared.score_identity import Draw, Rules, duel, fake_score
from erasure.models.diffusion.load import load_generator
from erasure.models.diffusion.model import DiffusionModel
from erasure.models.diffusion.one_step import OneStep
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.registry import METHODS
from erasure.training.run import Run
from erasure_datasets.concept import Concept, retain_prompts

HALVES = 2  # a mean over two joined halves, times this, is the sum of their means


@METHODS.register
@dataclass(frozen=True)
class SFD:
    """Score Forgetting Distillation."""

    never_further: ClassVar = "it makes a one-step generator of the whole model"
    steps: int = setting(12500, quick=40, help="steps of fake score and generator", at_least=1)
    learning_rate: float = setting(1e-6, help="the generator's, for Adam (0, 0.999)", above=0)
    fake_learning_rate: float = setting(3e-6, help="the fake score's", above=0)
    batch_size: int = setting(8, help="images to forget per step, and as many to keep", at_least=1)
    alpha: float = setting(1.0, help="weight of the squared gap of the scores", at_least=0)
    guidance: float = setting(4.5, help="the teacher's guidance", at_least=1)
    fake_guidance: float = setting(4.5, help="the fake score's guidance", at_least=1)
    first_timestep: int = setting(20, help="lowest timestep asked of the scores", at_least=0)
    last_timestep: int = setting(980, help="the one after the highest", at_least=1)
    forget_weight: float = setting(1.0, help="of the forget term (mu_f)", above=0)
    retain_weight: float = setting(1.0, help="of the retain term (mu_r)", at_least=0)
    fake_forget_weight: float = setting(1.0, help="in the fake score's loss (lambda_f)", at_least=0)
    fake_retain_weight: float = setting(1.0, help="in the fake score's loss (lambda_r)", at_least=0)
    override: Literal["anchor", "negative", "both"] = setting(
        "anchor", help="what the teacher draws instead"
    )
    dropout: float = setting(
        0.1, help="share of prompts the fake score learns without", at_least=0, at_most=1
    )
    clip: float = setting(1.0, help="bound on every element of a gradient", above=0)
    generator: str = setting("", help="the one-step generator's name or diffusers folder")
    distil_steps: int = setting(
        100000, quick=20, help="steps that make a generator", at_least=1, when="not generator"
    )
    distil_rate: float = setting(
        1e-6,
        help="and their learning rate; the fake score's is 3x it",
        above=0,
        when="not generator",
    )
    distil_pairs: int = setting(
        0,
        quick=32,
        rehearsal=0,
        help="and noise-image pairs of the teacher it first regresses on",
        at_least=0,
        when="not generator",
    )
    retain_prompts: str = setting(
        "",
        help="file of prompts (.csv, .txt, .json): what to keep",
        when="retain_weight or fake_retain_weight",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.first_timestep >= self.last_timestep:
            raise SettingError(
                f"SFD.first_timestep must be below last_timestep ({self.last_timestep}); "
                f"got {self.first_timestep}."
            )
        if self.override != "anchor" and self.guidance == 1:
            raise SettingError(
                f"SFD.guidance must be above 1 with override {self.override}; got 1, with which "
                "the teacher is never asked for its unconditional slot."
            )

    def erase(self, model: DiffusionModel, concepts: list[Concept], run: Run) -> Edit:
        if not isinstance(model, StableDiffusion):
            raise SettingError(
                f"sfd distils Stable Diffusion 1.x and 2.x; {model.name} is neither. "
                "Choose another method."
            )
        run.hardware.refuse_fp16("sfd; its losses are sums")
        if self.last_timestep > model.timesteps:
            raise SettingError(
                f"SFD.last_timestep must be at most the {model.timesteps} timesteps that "
                f"{model.name} has; got {self.last_timestep}."
            )
        kept = retain_prompts(concepts, model.catalogue, self.retain_prompts)
        retain = [(text, text, "") for text in kept]
        forget = self._rows(concepts)
        generator = self._generator(model, [row[0] for row in forget + retain], run)
        run.subject, fake = generator, fake_score(model)
        generator.remember(list(generator.weights("full")))
        weights = HALVES * torch.tensor(
            [
                [self.forget_weight, self.retain_weight],
                [self.fake_forget_weight, self.fake_retain_weight],
            ],
            dtype=torch.float32,
            device=run.device,
        )
        run.lower(model.parameters())
        with model.memorised([*(text for row in forget + retain for text in row), ""]):
            duel(
                model, generator, fake, lambda: self._draw(model, forget, retain, weights, run),
                self._rules(), steps=self.steps, learning_rate=self.learning_rate,
                fake_learning_rate=self.fake_learning_rate, run=run, stage="fit",
            )  # fmt: skip
        return Edit.between(generator, concepts, "sfd", asdict(self))

    def _rows(self, concepts: list[Concept]) -> list[tuple[str, str, str]]:
        """(the prompt, what the teacher is asked instead, its unconditional slot) per template."""
        rows = [
            (
                prompt,
                wanted if self.override != "negative" else prompt,
                name if self.override != "anchor" else "",
            )
            for prompt, name, wanted, _ in aligned_prompts(concepts)
        ]
        return list(dict.fromkeys(rows))

    @torch.no_grad()
    def _draw(
        self, model: StableDiffusion, forget: list[tuple[str, str, str]],
        retain: list[tuple[str, str, str]], weights: Float[Tensor, "2 2"], run: Run,
    ) -> Draw:  # fmt: skip
        """This process's part of a batch: a row to forget and one to keep in turn."""
        halves = []
        for rows in (forget, retain):
            numbers = torch.randint(len(rows), (self.batch_size,), generator=run.generator)
            halves.append([rows[i] for i in run.part(numbers).tolist()])
        chosen = [row for pair in zip(*halves, strict=True) for row in pair]
        asked, instead, negative = (model.encode(column) for column in zip(*chosen, strict=True))
        empty = model.encode([""]).expand_as(asked)
        return Draw(asked, instead, asked, negative, empty, *weights.repeat(1, len(halves[0])))

    def _generator(self, model: StableDiffusion, prompts: list[str], run: Run) -> OneStep:
        if self.generator:
            return load_generator(self.generator, model)
        return distil(
            model, prompts, self._rules(), pairs=self.distil_pairs, steps=self.distil_steps,
            batch_size=self.batch_size, learning_rate=self.distil_rate, run=run,
        )  # fmt: skip

    def _rules(self) -> Rules:
        return Rules(
            self.alpha, self.guidance, self.fake_guidance, self.first_timestep,
            self.last_timestep, self.clip, self.dropout,
        )  # fmt: skip
