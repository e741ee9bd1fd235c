"""Bounded losses: push the concept away on its own pictures, and stop once it is gone.

Changes: the UNet's cross-attention; any weights with --select.

NPO, FLAT and LoKU's inverted hinge (methods/shared/bounded_losses.py) are about language models;
their carrying over to diffusion is this project's. With x_t a noised picture of the concept, c_f
the prompt that names it, c_a the same with the anchor, p for predict and p_0 the original model's:

    npo     (2 / beta) log(1 + r^beta),   log r = -(l - l_0) / u
    flat    f*(g(exp(-d_f / u))) - g(exp(-d_a / u))
    ihl     max(0, 1 + (d_a - d_f) / u)
    ascent  -(l - l_0) / u

    l, l_0  mean (p(x_t, t, c_f) - target)^2, and the original model's
    d_f     mean (p(x_t, t, c_f) - p_0(x_t, t, c_f))^2,   d_a  the same to p_0(x_t, t, c_a)
    u       the mean of (p_0(x_t, t, c_f) - p_0(x_t, t, c_a))^2: what the concept's name changes

All are means over the batch. npo and ascent want the concept's pictures denoised badly, whatever
is drawn instead; flat and ihl want the anchor's answer and not the concept's own.

Choices
- Nothing that is kept is looked at, as in FLAT and in NPO without its retain term, unless
  `retain_weight` adds mean (p(x_r, t, c_r) - target)^2 on pictures to keep.
- u is one number, over all pictures to forget: per picture it would be next to nothing at little
  noise, and these would outweigh the others.
- beta is in units of u. The authors' 0.1 to 1 are of a text's log-probability.
- The answers to leave and to reach are the original model's; SalUn and uproot relabel towards the
  current one's, which moves with the edit.
- ascent is the control: the same without a bound.
- flat is the default: on pocket, 40 steps without anything kept, it erased what it was trained on
  and left the rest; npo at beta 1 only coarsened the pictures (docs/results/generalisation.md).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from erasure.config import check, setting
from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.methods.shared.bounded_losses import (
    Divergence,
    divergence_loss,
    hinge_loss,
    preference_loss,
)
from erasure.methods.shared.training_data import Pictures, Plan, draw, gather, noise_loss
from erasure.models.diffusion.model import DiffusionModel
from erasure.registry import METHODS
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.processes import average, own_range
from erasure.training.run import Run
from erasure_datasets.concept import Concept

Answers = Float[Tensor, "b c h w"]


@METHODS.register
@dataclass(frozen=True)
class Bounded:
    """Negative preference, inverted hinge and f-divergence losses on the concept's pictures."""

    loss: Literal["npo", "flat", "ihl", "ascent"] = setting("flat", help="which loss pushes away")
    steps: int = setting(200, quick=60, help="optimiser steps", at_least=1)
    learning_rate: float = setting(1e-5, help="Adam's learning rate", above=0)
    batch_size: int = setting(8, help="images to forget per step, and to keep", at_least=1)
    beta: float = setting(1.0, help="how soon it stops pushing", above=0, when="loss=npo")
    divergence: Divergence = setting("kl", help="which f-divergence", when="loss=flat")
    retain_weight: float = setting(0.0, help="weight of a retain loss", at_least=0)
    select: str = setting(
        "xattn", help="which weights: full, xattn, xattn.kv, noxattn, selfattn, or a pattern"
    )
    images: str = setting(
        "auto", help="auto (the model's data set, else generated), generated, or a folder"
    )
    forget_images: int = setting(
        200, rehearsal=16, help="how many images of the concept", at_least=1
    )
    retain_images: int = setting(
        200, rehearsal=16, help="how many images to keep, with retain_weight", at_least=1
    )
    sampling_steps: int = setting(
        50, quick=12, rehearsal=2, help="DDIM steps for generated images", at_least=1
    )
    guidance: float = setting(7.5, help="guidance for generated images", at_least=0)
    retain_prompts: str = setting(
        "", help="file of prompts (.csv, .txt, .json): what to keep", when="retain_weight"
    )

    def __post_init__(self) -> None:
        check(self)

    def erase(self, model: DiffusionModel, concepts: list[Concept], run: Run) -> Edit:
        weights = model.weights(self.select)
        model.remember(list(weights))
        run.lower(model.parameters())
        plan = Plan(
            self.images, self.forget_images, self.retain_images if self.retain_weight else 0,
            self.retain_prompts, self.sampling_steps, self.guidance,
        )  # fmt: skip
        forget, retain = gather(model, concepts, plan, run)
        with model.memorised(["", *forget.prompts, *forget.anchors, *retain.prompts]):
            loss = self._loss(model, forget, retain, self._unit(model, forget, run), run)
            learner = Learner(loss, weights, self.learning_rate, start=model.originals)
            fit(learner, steps=self.steps, run=run)
        return Edit.between(model, concepts, "bounded", asdict(self))

    def _loss(
        self, model: DiffusionModel, forget: Pictures, retain: Pictures, unit: float, run: Run
    ) -> Callable[[int], dict[str, Tensor]]:
        def loss(_step: int) -> dict[str, Tensor]:
            z0, prompts, anchors, t, noise = draw(forget, self.batch_size, model, run)
            z_t = model.add_noise(z0, noise, t)
            before, instead = _original(model, z_t, t, prompts, anchors)
            said = model.predict(z_t, t, model.encode(prompts))
            pushed = self.pushed(said, before, instead, model.target(z0, noise, t), unit)
            terms = {"erase": pushed.mean()}
            if self.retain_weight:
                kept = noise_loss(model, draw(retain, self.batch_size, model, run))
                terms["retain"] = self.retain_weight * kept
            return terms

        return loss

    def pushed(
        self, said: Answers, before: Answers, instead: Answers, target: Answers, unit: float
    ) -> Float[Tensor, " b"]:
        """The loss of each picture.

        `said` is the model's answer under the concept's prompt, `before` the original one's, and
        `instead` the original one's under the anchor's; `target` is what training asks for.
        """
        if self.loss in ("npo", "ascent"):
            risen = (_apart(said, target) - _apart(before, target)) / unit
            return -risen if self.loss == "ascent" else preference_loss(-risen, self.beta)
        own, other = -_apart(said, before) / unit, -_apart(said, instead) / unit
        if self.loss == "ihl":
            return hinge_loss(own, other)
        return divergence_loss(own.exp(), other.exp(), self.divergence)

    @torch.no_grad()
    def _unit(self, model: DiffusionModel, forget: Pictures, run: Run) -> float:
        """u; SettingError if the model answers the anchor's prompts as it does the concept's."""
        generator, count = run.generator_for("unit"), len(forget.prompts)
        t = model.random_times(count, generator)
        noise = torch.randn(forget.latents.shape, generator=generator)
        own = own_range(count)
        starts, summed = own[:: self.batch_size], torch.zeros((), device=run.device)
        with run.progress("unit", len(starts), grows_with=("forget_images",)) as bar:
            for start in starts:
                batch = slice(start, min(start + self.batch_size, own.stop))
                z0, at, added = (run.send(x[batch]) for x in (forget.latents, t, noise))
                z_t = model.add_noise(z0, added, at)
                asked = forget.prompts[batch], forget.anchors[batch]
                summed += _apart(*_original(model, z_t, at, *asked)).sum() / count
                bar.advance()
        average([summed])
        unit = float(summed) * run.accelerator.num_processes
        if not unit > 0:
            raise SettingError(
                "anchor must be something that the model draws otherwise than the concept; it "
                "answers both alike."
            )
        return unit


def _apart(first: Answers, second: Answers) -> Float[Tensor, " b"]:
    """The mean squared difference of each picture's two answers."""
    return (first.float() - second.float()).square().flatten(1).mean(1)


@torch.no_grad()
def _original(
    model: DiffusionModel, z_t: Tensor, t: Tensor, prompts: list[str], anchors: list[str]
) -> tuple[Tensor, Tensor]:
    """What the original model answers to the concept's and to the anchor's prompts."""
    with model.original():
        said = model.predict(z_t.repeat(2, 1, 1, 1), t.repeat(2), model.encode(prompts + anchors))
    named, instead = said.chunk(2)
    return named, instead
