"""Score identity distillation: its two losses, and the duel of a generator with a fake score.

Zhou et al., "Score identity Distillation" (ICML 2024), https://arxiv.org/abs/2404.04057, and "Long
and Short Guidance in Score identity Distillation" (ICLR 2025), https://arxiv.org/abs/2406.01561:

    x^_s(z_t, c) = (z_t - sqrt(1 - abar_t) eps_s(z_t, t, c)) / sqrt(abar_t)     denoised by score s
    fake score   sum (eps_psi(z_t, t, c) - eps)^2
    generator    sum d [(x^_p - x_g) - alpha d] / omega,   d = x^_p - x^_psi,
                 omega = mean |x^_p - x_g|, held constant

with z_t = sqrt(abar_t) x_g + sqrt(1 - abar_t) eps on what the generator draws, p the teacher and
psi the fake score. Gradients reach x_g through both scores, which are held fixed.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from erasure.models.diffusion.model import Condition, DiffusionModel, guided
from erasure.models.diffusion.one_step import OneStep, pipeline_with
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.training.fit import fit
from erasure.training.learner import Learner, trainable
from erasure.training.optimisers import Optimiser
from erasure.training.run import Run


@dataclass(frozen=True)
class Draw:
    """What one step works on: a condition for each network, and each image's two weights.

    `negative` stands in the teacher's unconditional slot, `empty` in the fake score's. The losses
    are the weighted means over the rows.
    """

    drawn: Condition
    teacher: Condition
    fake: Condition
    negative: Condition
    empty: Condition
    weight: Float[Tensor, " b"]
    fake_weight: Float[Tensor, " b"]


@dataclass(frozen=True)
class Rules:
    """How the duel goes: the settings that SFD and a distillation share.

    `dropout` is the share of rows that the fake score learns without their prompt: on what the
    generator draws without it.
    """

    alpha: float
    guidance: float
    fake_guidance: float
    first: int
    last: int
    clip: float
    dropout: float


def fake_score(model: StableDiffusion) -> StableDiffusion:
    """A model that shares all but its UNet, which begins as a copy."""
    unet = deepcopy(model.backbone)
    pipeline = pipeline_with(model.pipeline, unet, model.pipeline.scheduler)
    return StableDiffusion(pipeline, name="the fake score")


def identity_loss(
    teacher: Float[Tensor, "b c h w"], fake: Float[Tensor, "b c h w"],
    drawn: Float[Tensor, "b c h w"], alpha: float,
) -> Float[Tensor, " b"]:  # fmt: skip
    """The generator's loss per image, from the two denoised means and what it drew."""
    apart, error = teacher - fake, teacher - drawn
    scale = error.detach().abs().flatten(1).mean(1).clamp(min=1e-5)
    return (apart * (error - alpha * apart)).flatten(1).sum(1) / scale


def fake_loss(
    predicted: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """The fake score's loss per image: summed squared error of its prediction."""
    return (predicted - target).square().flatten(1).sum(1)


def generator_loss(
    teacher: DiffusionModel, fake: DiffusionModel, drawn: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"], t: Int[Tensor, " b"], draw: Draw, rules: Rules,
) -> Float[Tensor, " b"]:  # fmt: skip
    """`identity_loss` at z_t, unweighted."""
    z_t = teacher.add_noise(drawn, noise, t)
    real = guided(teacher, z_t, t, draw.teacher, draw.negative, rules.guidance)
    own = guided(fake, z_t, t, draw.fake, draw.empty, rules.fake_guidance)
    return identity_loss(
        teacher.denoised(z_t, real, t), fake.denoised(z_t, own, t), drawn, rules.alpha
    )


def duel(
    teacher: DiffusionModel, generator: OneStep, fake: DiffusionModel,
    draw: Callable[[], Draw], rules: Rules, *, steps: int, learning_rate: float,
    fake_learning_rate: float, run: Run, stage: str,
) -> None:  # fmt: skip
    """Train the fake score and the generator in turn, `steps` times, from the same drawings."""
    weights = generator.weights("full")
    in_parts = run.hardware.gradient_accumulation > 1
    drawings: list[tuple[Draw, Tensor, Tensor]] = []  # one for each part of the batch

    def learn_fake(_step: int) -> dict[str, Tensor]:
        asked = draw()
        z, _ = _random_point((len(asked.drawn), *generator.latent_shape), rules, run)
        # its graph is kept for the generator's turn, but not one for every part
        with torch.no_grad() if in_parts else trainable(weights):
            drawn = generator.one_call(z, asked.drawn)
        drawings.append((asked, z, drawn))
        noise, t = _random_point(drawn.shape, rules, run)
        chances = run.part(torch.rand(run.whole(len(drawn)), generator=run.generator))
        dropped = run.send((chances < rules.dropout).nonzero()[:, 0])
        learnt = _without_prompt(generator, drawn.detach(), z, asked, dropped)
        known = asked.fake.index_copy(0, dropped, asked.empty[dropped])
        z_t = teacher.add_noise(learnt, noise, t)
        predicted = guided(fake, z_t, t, known, asked.empty, rules.fake_guidance)
        wanted = fake.target(learnt, noise, t)
        return {"fake": (asked.fake_weight * fake_loss(predicted, wanted)).mean()}

    def learn_generator(_step: int) -> dict[str, Tensor]:
        asked, z, drawn = drawings.pop(0)
        if in_parts:
            drawn = generator.one_call(z, asked.drawn)
        noise, t = _random_point(drawn.shape, rules, run)
        losses = generator_loss(teacher, fake, drawn, noise, t, asked, rules)
        return {"identity": (asked.weight * losses).mean()}

    fit(
        {
            "fake": _learner(learn_fake, fake, fake_learning_rate, rules, run),
            "generator": _learner(learn_generator, generator, learning_rate, rules, run),
        },
        steps=steps, run=run, stage=stage,
    )  # fmt: skip


def _learner(
    loss: Callable[[int], dict[str, Tensor]], model: DiffusionModel, rate: float, rules: Rules,
    run: Run,
) -> Learner:  # fmt: skip
    weights, by = model.weights("full"), Optimiser(betas=(0.0, 0.999))
    return Learner(loss, weights, rate, by, rules.clip, start=run.lowered(weights))


@torch.no_grad()
def _without_prompt(
    generator: OneStep, drawn: Float[Tensor, "b c h w"], z: Float[Tensor, "b c h w"], asked: Draw,
    dropped: Int[Tensor, " n"],
) -> Float[Tensor, "b c h w"]:  # fmt: skip
    """What the generator draws, with these rows drawn under the empty prompt instead."""
    if not len(dropped):
        return drawn
    return drawn.index_copy(0, dropped, generator.one_call(z[dropped], asked.empty[dropped]))


def _random_point(shape: Sequence[int], rules: Rules, run: Run) -> tuple[Tensor, Tensor]:
    """This process's part, of this shape, of a batch of noise and timesteps."""
    count = run.whole(shape[0])
    noise = run.shard(torch.randn((count, *shape[1:]), generator=run.generator))
    t = torch.randint(rules.first, rules.last, (count,), generator=run.generator)
    return noise, run.shard(t)
