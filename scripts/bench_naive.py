"""What bench.py compares with: each method the naive way, as public research code goes about it.

A second network answers for the original model, everything is float32, and nothing is kept from
step to step: every step samples its own path up to a random timestep, encodes its images and its
prompts again, and asks for each prediction in a call of its own. Costs alone matter, so that
prompts and values are arbitrary.

Each function gives the parts of a step as (how often per step, part). A random timestep stops a
path after half of its steps on average, so paths here are half as long.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.methods.diffusion.esd import weights_of
from erasure.methods.shared.score_identity import Draw, Rules, fake_loss, fake_score, generator_loss
from erasure.models.diffusion.model import DiffusionModel, guided
from erasure.models.diffusion.one_step import OneStep
from erasure.models.diffusion.slots import place
from erasure_datasets.concept import Concept

Parts = list[tuple[float, Callable[[], object]]]
Settings = Any  # the method's own dataclass


def twin(model: DiffusionModel, *, whole: bool = False) -> DiffusionModel:
    """A second network: another UNet around the same encoder and autoencoder, or all of it."""
    pipeline: Any = model.pipeline  # type: ignore[attr-defined]
    shared = [part for name, part in pipeline.components.items() if name != "unet"]
    return deepcopy(model, {} if whole else {id(part): part for part in shared})


def optimiser_of(weights: dict[str, nn.Parameter], rate: float) -> torch.optim.Adam:
    for weight in weights.values():
        weight.requires_grad_(True)
    return torch.optim.Adam(list(weights.values()), lr=rate)


def take_step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    loss.item()


@torch.no_grad()
def half_path(
    model: DiffusionModel, prompts: list[str], settings: Settings
) -> tuple[Tensor, Tensor]:
    """Guided DDIM of fresh noise, stopped half way: latents and their timestep."""
    path = model.sample_path(
        model.encode(prompts), steps=settings.sampling_steps // 2, guidance=settings.guidance,
        noise=torch.randn(len(prompts), *model.latent_shape),
    )  # fmt: skip
    return path.finished, path.timesteps[-1].expand(len(prompts))


def random_point(model: DiffusionModel, count: int) -> tuple[Tensor, Tensor]:
    t = torch.randint(model.timesteps, (count,), device=model.device)
    return torch.randn(count, *model.latent_shape, device=model.device), t


def esd(model: DiffusionModel, concept: Concept, s: Settings) -> Parts:
    """A frozen second UNet; each step's path is sampled for it."""
    optimiser = optimiser_of(weights_of(model, s.select), s.learning_rate)
    frozen = twin(model)

    def step() -> None:
        prompts = [concept.prompts()[0]] * s.batch_size
        loss = push_away(model, frozen, prompts, s)
        if s.retain_weight:
            loss = loss + s.retain_weight * stay(model, frozen, ["a tree"] * s.batch_size, s)
        take_step(optimiser, loss)

    return [(1, step)]


def push_away(
    model: DiffusionModel, frozen: DiffusionModel, prompts: list[str], s: Settings,
    condition: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """ESD's loss at a point of a fresh path, with one call for each of its predictions."""
    z_t, t = half_path(frozen, prompts, s)
    with torch.no_grad():
        start, pushed, none = (
            frozen.predict(z_t, t, frozen.encode(texts))
            for texts in (prompts, prompts, [""] * len(prompts))
        )
        wanted = start - s.push * (pushed - none)
    condition = model.encode(prompts) if condition is None else condition
    return F.mse_loss(model.predict(z_t, t, condition), wanted)


def stay(model: DiffusionModel, frozen: DiffusionModel, prompts: list[str], s: Settings) -> Tensor:
    """The distance from the frozen model's prediction, on a fresh path of its own."""
    z_t, t = half_path(frozen, prompts, s)
    with torch.no_grad():
        wanted = frozen.predict(z_t, t, frozen.encode(prompts))
    return F.mse_loss(model.predict(z_t, t, model.encode(prompts)), wanted)


def advunlearn(model: DiffusionModel, concept: Concept, s: Settings) -> Parts:
    """Two whole models; every inner step of an attack samples a path of its own."""
    frozen = twin(model, whole=True)
    optimiser = optimiser_of(model.weights(s.select), s.learning_rate)
    prompts = [concept.prompts()[0]] * s.batch_size
    slotted = model.open_slots([place(prompt, s.placement) for prompt in prompts], s.tokens)
    width = model.token_table.shape[1]
    vectors = torch.randn(s.batch_size, s.tokens, width, device=model.device)
    attack = torch.optim.Adam([vectors.requires_grad_(True)], lr=s.attack_rate)

    def inner() -> None:
        z_t, t = half_path(frozen, prompts, s)
        with torch.no_grad():
            wanted = frozen.predict(z_t, t, frozen.encode(prompts))
        asked = model.predict(z_t, t, model.encode_slots(slotted, vectors))
        take_step(attack, F.mse_loss(asked, wanted))

    def outer() -> None:
        condition = model.encode_slots(slotted, vectors.detach())
        loss = push_away(model, frozen, prompts, s, condition)
        kept = stay(model, frozen, ["a tree"] * s.retain_batch_size, s)
        take_step(optimiser, loss + s.retain_weight * kept)

    steps = 1 if s.attack == "fast" else s.attack_steps
    return [(1, outer), (steps * (1 - s.warmup / s.steps), inner)]


def sfd(model: Any, concept: Concept, s: Settings) -> Parts:
    """Forget and retain halves one after the other, each drawn anew for either network."""
    generator = OneStep.on(model, deepcopy(model.backbone), name="naive")
    fake, prompts = fake_score(model), (concept.prompts()[0], "a tree")
    optimiser = optimiser_of(generator.weights("full"), s.learning_rate)
    fake_weights = fake.weights("full")
    fake_optimiser = optimiser_of(fake_weights, s.fake_learning_rate)
    rules = Rules(
        s.alpha, s.guidance, s.fake_guidance, s.first_timestep, s.last_timestep, s.clip, 0
    )

    def drawing(prompt: str) -> tuple[Tensor, Tensor, Tensor, Any]:
        some, none = model.encode([prompt] * s.batch_size), model.encode([""] * s.batch_size)
        noise, t = random_point(model, s.batch_size)
        one = torch.ones(s.batch_size, device=model.device)
        asked = Draw(some, some, some, none, none, one, one)
        drawn = generator.one_call(torch.randn_like(noise), some)
        return drawn, noise, t.clamp(min=20), asked

    def step() -> None:
        for prompt in prompts:
            with torch.no_grad():
                drawn, noise, t, asked = drawing(prompt)
            z_t = model.add_noise(drawn, noise, t)
            said = guided(fake, z_t, t, asked.fake, asked.empty, s.fake_guidance)
            fake_loss(said, noise).mean().backward()
        nn.utils.clip_grad_value_(list(fake_weights.values()), s.clip)
        fake_optimiser.step()
        fake_optimiser.zero_grad()
        for weight in fake_weights.values():
            weight.requires_grad_(False)
        for prompt in prompts:
            drawn, noise, t, asked = drawing(prompt)
            generator_loss(model, fake, drawn, noise, t, asked, rules).mean().backward()
        nn.utils.clip_grad_value_(list(generator.weights("full").values()), s.clip)
        optimiser.step()
        optimiser.zero_grad()
        for weight in fake_weights.values():
            weight.requires_grad_(True)

    return [(1, step)]


def gs_lora(model: Any, concept: Concept, s: Settings) -> Parts:
    """peft's layers beside a frozen second UNet; nobody published this one for diffusion."""
    frozen = twin(model)
    names = [name.removeprefix("unet.") for group in model.groups(s.place) for name in group]
    model.backbone.add_adapter(
        LoraConfig(r=s.rank, lora_alpha=s.alpha, target_modules=names, init_lora_weights="gaussian")
    )
    weights = {n: p for n, p in model.parameters().items() if ".lora_" in n}
    optimiser = optimiser_of(weights, s.learning_rate)
    prompts = [concept.prompts()[0]] * s.batch_size

    def step() -> None:
        loss = F.relu(push_away(model, frozen, prompts, s) - s.bound)
        loss = loss + s.retain_weight * stay(model, frozen, ["a tree"] * s.batch_size, s)
        for weight in weights.values():
            loss = loss + s.group_weight * weight.square().sum().add(1e-12).sqrt()
        take_step(optimiser, loss)

    return [(1, step)]


def uce(model: DiffusionModel, concepts: list[Concept], preserved: list[str], s: Settings) -> Parts:
    """One layer after another, each encoding every prompt again and inverting for itself."""
    weights = list(model.weights("xattn.kv").values())

    @torch.no_grad()
    def one_layer() -> Tensor:
        old = weights[0]
        left = s.stay * torch.eye(old.shape[1], device=old.device)
        right = s.stay * old
        for concept in concepts:
            for prompt, anchor in zip(concept.prompts(), concept.anchor_prompts(), strict=True):
                vectors = model.encode([prompt, anchor])
                source, target = vectors[0, -1:].T, vectors[1, -1:].T
                right = right + (old @ target) @ source.T
                left = left + source @ source.T
        for prompt in preserved:
            source = model.encode([prompt])[0, -1:].T
            right = right + (old @ source) @ source.T
            left = left + source @ source.T
        return right @ torch.inverse(left)

    return [(len(weights), one_layer)]


NAIVE: dict[str, Any] = {
    "esd": esd, "advunlearn": advunlearn, "sfd": sfd, "gs-lora": gs_lora,
}  # fmt: skip
