"""What bench.py compares the methods with that learn from pictures; see bench_naive.py."""

from collections.abc import Callable
from typing import Any

import torch
from bench_naive import Parts, Settings, optimiser_of, random_point, take_step, twin
from torch import Tensor
from torch.nn import functional as F

from erasure.methods.shared.discriminator import Discriminator
from erasure.models.diffusion.model import DiffusionModel
from erasure_datasets.concept import Concept


def noisy_images(model: DiffusionModel, s: Settings) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
    """(noised latents, timesteps, noise) of the same images, encoded again each time."""
    shape = (s.batch_size, 3, model.resolution, model.resolution)
    images = torch.randint(256, shape, dtype=torch.uint8)

    def noisy() -> tuple[Tensor, Tensor, Tensor]:
        noise, t = random_point(model, s.batch_size)
        return model.add_noise(model.to_latents(images), noise, t), t, noise

    return noisy


def salun(model: DiffusionModel, concept: Concept, s: Settings) -> Parts:
    """The mask as int64; images encoded at every use; the target's graph built, then cut off."""
    weights = model.weights(s.select)
    optimiser = optimiser_of(weights, s.learning_rate)
    masks = {name: torch.ones_like(w, dtype=torch.int64) for name, w in weights.items()}
    noisy = noisy_images(model, s)

    def step() -> None:
        z_t, t, _ = noisy()
        asked = model.predict(z_t, t, model.encode([concept.prompts()[0]] * s.batch_size))
        z_t, t, _ = noisy()
        wanted = model.predict(z_t, t, model.encode(["a dog"] * s.batch_size)).detach()
        z_t, t, noise = noisy()
        kept = model.predict(z_t, t, model.encode(["a tree"] * s.batch_size))
        loss = F.mse_loss(asked, wanted) + s.retain_weight * F.mse_loss(kept, noise)
        optimiser.zero_grad()
        loss.backward()
        for name, weight in weights.items():
            if weight.grad is not None:
                weight.grad.mul_(masks[name])
        optimiser.step()
        loss.item()

    return [(1, step)]


def doco(model: DiffusionModel, concept: Concept, s: Settings) -> Parts:
    """A frozen second UNet; the model's answer for the critic keeps its graph, then is cut off."""
    frozen, weights = twin(model), model.weights(s.select)
    optimiser = optimiser_of(weights, s.learning_rate)
    critic = Discriminator(model.latent_shape[0], s.depth, knows_noise=False).to(model.device)
    own = torch.optim.Adam(critic.parameters(), lr=s.critic_rate)
    noisy = noisy_images(model, s)

    def answer(who: DiffusionModel, z_t: Tensor, t: Tensor, prompt: str) -> Tensor:
        said = who.predict(z_t, t, who.encode([prompt] * s.batch_size))
        return critic(who.denoised(z_t, said, t), who.levels(t)[1])

    def step() -> None:
        z_t, t, _ = noisy()
        real = answer(frozen, z_t, t, "a dog").sigmoid()
        drawn = answer(model, z_t, t, concept.prompts()[0]).sigmoid()
        take_step(own, drawn.mean() - real.mean())
        z_t, t, _ = noisy()
        loss = -answer(model, z_t, t, concept.prompts()[0]).mean()
        pushed = torch.autograd.grad(loss, list(weights.values()))
        z_t, t, noise = noisy()
        kept = F.mse_loss(model.predict(z_t, t, model.encode(["a tree"] * s.batch_size)), noise)
        keep = torch.autograd.grad(kept, list(weights.values()))
        for weight, g, r in zip(weights.values(), pushed, keep, strict=True):
            inner = (g * r).sum()
            weight.grad = g - inner / r.square().sum() * r if inner.item() < 0 else g
        optimiser.step()

    return [(1, step)]


def bounded(model: DiffusionModel, concept: Concept, s: Settings) -> Parts:
    """A frozen second UNet, asked in a call for each prompt."""
    frozen = twin(model)
    optimiser = optimiser_of(model.weights(s.select), s.learning_rate)
    noisy, prompts = noisy_images(model, s), [concept.prompts()[0]] * s.batch_size

    def step() -> None:
        z_t, t, noise = noisy()
        with torch.no_grad():
            before = frozen.predict(z_t, t, frozen.encode(prompts))
            frozen.predict(z_t, t, frozen.encode(["a dog"] * s.batch_size))
        said = model.predict(z_t, t, model.encode(prompts))
        risen = F.mse_loss(said, noise) - F.mse_loss(before, noise)
        take_step(optimiser, F.softplus(-s.beta * risen))

    return [(1, step)]


def adapt_unlearn(model: DiffusionModel, concept: Concept, s: Settings) -> Parts:
    """The target's graph built, then cut off; every condition in a call of its own."""
    optimiser = optimiser_of(model.weights(s.select), s.learning_rate)
    noisy = noisy_images(model, s)
    word = model.encode([""]).detach().requires_grad_(True)
    search = torch.optim.Adam([word], lr=s.word_rate)

    def follow() -> None:
        z_t, t, noise = noisy()
        take_step(search, F.mse_loss(model.predict(z_t, t, word.expand(len(t), -1, -1)), noise))

    def step() -> None:
        z_t, t, _ = noisy()
        known = word.detach().expand(len(t), -1, -1)
        wanted = model.predict(z_t, t, model.encode(["a dog"] * len(t))).detach()
        asked = [model.encode([text] * len(t)) for text in (concept.prompts()[0], "")]
        loss = sum(F.mse_loss(model.predict(z_t, t, one), wanted) for one in (*asked, known))
        noise, t = random_point(model, s.retain_batch_size)
        kept = model.predict(noise, t, model.encode(["a tree"] * len(t)))
        take_step(optimiser, loss + s.retain_weight * F.mse_loss(kept, noise))

    return [(1, step), (1, follow)]


NAIVE: dict[str, Any] = {
    "salun": salun, "doco": doco, "bounded": bounded, "adapt-unlearn": adapt_unlearn,
}  # fmt: skip
