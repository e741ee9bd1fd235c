"""The pocket suite's one-step generator: score identity distillation of its UNet.

A regression on the teacher's own noise-image pairs comes first, because the budget is minutes. No
render is used: prompts only.
"""

import math
import time
from copy import deepcopy

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from pocket_training import CPU, SUITE, WORK, Average, Budget, MuonAdam, log, record, sheet
from torch import Tensor, nn

from erasure.methods.shared.score_identity import Draw, Rules, fake_loss, fake_score, generator_loss
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.model import guided
from erasure.models.diffusion.one_step import OneStep
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure_datasets.canvas import OBJECTS, STYLES
from erasure_datasets.captions import caption, random_caption

RULES = Rules(alpha=1.0, guidance=3.0, fake_guidance=1.0, first=20, last=980, clip=1.0, dropout=0.1)
TEACHER_STEPS, PAIRS_SHARE, REGRESSION_SHARE = 8, 0.18, 0.3
ADAM_ONLY = ("conv_in", "conv_out", "time_embedding")


class Prompts:
    """Random captions of all pairs, each encoded once."""

    def __init__(self, model: StableDiffusion) -> None:
        self.model, self.known, self.rng = model, dict[str, Tensor](), np.random.default_rng(0)
        self.empty = self.encode([""])

    @torch.no_grad()
    def encode(self, texts: list[str]) -> Tensor:
        new = sorted(set(texts) - self.known.keys())
        if new:
            self.known |= dict(zip(new, self.model.encode(new), strict=True))
        return torch.stack([self.known[text] for text in texts])

    def draw(self, count: int) -> Tensor:
        """Conditions (n, 32, 128); the protocol's own sentence in half of them."""
        pairs = self.rng.integers(len(OBJECTS) * len(STYLES), size=count)
        texts = []
        for pair in pairs.tolist():
            name, style = divmod(pair, len(STYLES))
            plain = caption(OBJECTS[name], STYLES[style])
            other, has_object, has_style = random_caption(name, style, self.rng)
            is_plain = self.rng.random() < 0.5 or not (has_object and has_style)
            texts.append(plain if is_plain else other)
        return self.encode(texts)


def train(
    minutes: float, *, learning_rate: float = 5e-4, resume: bool = False,
    device: torch.device = CPU,
) -> None:  # fmt: skip
    """The first shares of the time draw pairs and regress, the rest is the duel.

    `resume` starts the duel from the suite's present generator.
    """
    torch.manual_seed(0)
    model = load_model("pocket", device=device)
    prompts = Prompts(model)
    unet = deepcopy(model.backbone)
    if resume:
        unet = load_model("pocket-one-step", device=device).backbone
    generator = OneStep.on(model, unet, name="pocket-one-step")
    for network in (model.backbone, generator.backbone):
        network.to(memory_format=torch.channels_last)
    started, facts = time.monotonic(), {}
    if not resume:
        pairs = draw_pairs(model, prompts, minutes * PAIRS_SHARE)
        facts |= {"pairs": len(pairs[0])}
        facts |= regress(generator, pairs, minutes * REGRESSION_SHARE, learning_rate)
        save(generator, "regressed")
    rest = minutes - (time.monotonic() - started) / 60
    facts |= {"duel_steps": duel(model, generator, prompts, rest, learning_rate / 5)}
    save(generator, "one-step")
    final = SUITE / "one-step" / "unet"
    deepcopy(generator.backbone).half().save_pretrained(final)
    record("one-step", {"minutes": minutes, **facts})


@torch.no_grad()
def draw_pairs(
    model: StableDiffusion, prompts: Prompts, minutes: float, batch: int = 32
) -> tuple[Tensor, Tensor, Tensor]:
    """(noise, what the guided teacher makes of it, condition), as many as the minutes allow."""
    file = WORK / "pairs.pt"
    known = torch.load(file, weights_only=True) if file.exists() else []
    WORK.mkdir(exist_ok=True)
    rng, budget = torch.Generator().manual_seed(len(known)), Budget(minutes)
    for step in budget.steps():
        condition = prompts.draw(batch)
        noise = torch.randn((batch, *model.latent_shape), generator=rng).to(model.device)
        scheduler = DPMSolverMultistepScheduler.from_config(model.pipeline.scheduler.config)
        scheduler.set_timesteps(TEACHER_STEPS, device=model.device)
        z, empty = noise, prompts.empty.expand_as(condition)
        for t in scheduler.timesteps:
            said = guided(model, z, t.expand(batch), condition, empty, RULES.guidance)
            z = scheduler.step(said, t, z).prev_sample
        known.append((noise.half(), z.half(), condition.half()))
        if step % 20 == 19:
            log.info("%d pairs", len(known) * batch)
            torch.save(known, file)
    torch.save(known, file)
    z, x, condition = (torch.cat(parts).float() for parts in zip(*known, strict=True))
    return z, x, condition


def regress(
    generator: OneStep, pairs: tuple[Tensor, Tensor, Tensor], minutes: float, learning_rate: float
) -> dict[str, object]:
    """mean (x_g - x_teacher)^2 over the pairs; the average of the weights is what stays."""
    unet, budget, losses = generator.backbone, Budget(minutes), []
    unet.requires_grad_(True).train()
    optimiser, average = MuonAdam(unet, learning_rate, ADAM_ONLY), Average(unet)
    for step in budget.steps():
        chosen = torch.randint(len(pairs[0]), (32,))
        z, wanted, condition = (part[chosen].to(generator.device) for part in pairs)
        z = z.contiguous(memory_format=torch.channels_last)
        loss = (generator.one_call(z, condition) - wanted).square().mean()
        loss.backward()
        optimiser.step(budget.rate())
        average.update()
        losses.append(loss.item())
        if step % 50 == 0:
            log.info("regress %5d  loss %.4f", step, np.mean(losses[-50:]))
    average.copy_to(unet)
    unet.requires_grad_(False).eval()
    return {"regression_steps": len(losses), "regression_loss": float(np.mean(losses[-100:]))}


def duel(
    model: StableDiffusion, generator: OneStep, prompts: Prompts, minutes: float,
    learning_rate: float, batch: int = 32,
) -> int:  # fmt: skip
    """Fake score and generator in turn; the average of the generator's weights stays."""
    fake = fake_score(model)
    fake.backbone.to(memory_format=torch.channels_last).requires_grad_(True)
    unet, rng, budget = generator.backbone, torch.Generator().manual_seed(7), Budget(minutes)
    unet.requires_grad_(True)
    average = Average(unet, 0.99)
    players = [MuonAdam(network, learning_rate, ADAM_ONLY) for network in (fake.backbone, unet)]
    losses, saved = [], 0.0

    def noise() -> Tensor:
        return torch.randn((batch, *model.latent_shape), generator=rng).to(model.device)

    def timesteps() -> Tensor:
        place = (torch.arange(batch) + torch.rand(batch, generator=rng)) / batch
        return (RULES.first + place * (RULES.last - RULES.first)).long().to(model.device)

    for step in budget.steps():
        condition = prompts.draw(batch).to(model.device)
        empty = prompts.empty.expand_as(condition)
        drawn = generator.one_call(noise(), condition)
        eps, t = noise(), timesteps()
        known = torch.where(
            (torch.rand(batch, generator=rng) < 0.1).view(-1, 1, 1), empty, condition
        )
        z_t = model.add_noise(drawn.detach(), eps, t)
        predicted = guided(fake, z_t, t, known, empty, RULES.fake_guidance)
        mistake = fake_loss(predicted, eps).mean() / eps[0].numel()
        mistake.backward()
        players[0].step(min(1.0, (step + 1) / 20))
        fake.backbone.requires_grad_(False)
        weight = torch.ones(batch, device=model.device)
        asked = Draw(condition, condition, condition, empty, empty, weight, weight)
        losses.append(generator_loss(model, fake, drawn, noise(), timesteps(), asked, RULES).mean())
        (losses[-1] / eps[0].numel()).backward()
        fake.backbone.requires_grad_(True)
        nn.utils.clip_grad_norm_(unet.parameters(), 10.0)
        players[1].step(min(budget.rate(), (step + 1) / 50))
        average.update()
        losses[-1] = losses[-1].item()
        if not math.isfinite(losses[-1]):
            raise SystemExit(f"the duel met a loss that is not finite at step {step}")
        if step % 20 == 0:
            log.info(
                "duel %5d  %5.1f min  fake %.4f  identity %.2f", step,
                budget.progress() * minutes, mistake.item(), np.mean(losses[-20:]),
            )  # fmt: skip
        if budget.progress() * minutes > saved + 10:
            saved = budget.progress() * minutes
            present = Average(unet)
            average.copy_to(unet)
            save(generator, f"duel-{saved:.0f}")
            present.copy_to(unet)
    average.copy_to(unet)
    unet.requires_grad_(False).eval()
    return budget.step


@torch.no_grad()
def save(generator: OneStep, name: str, styles: int = 8) -> None:
    """The UNet and a sheet of every object in the first styles, in .train/."""
    generator.backbone.save_pretrained(WORK / name)
    texts = [caption(name, style) for name in OBJECTS for style in STYLES[:styles]]
    rngs = [torch.Generator().manual_seed(188_000 + i) for i in range(len(texts))]
    images = generator.generate(texts, steps=1, guidance=1.0, generators=rngs)
    sheet(images.view(len(OBJECTS), styles, *images.shape[1:]), WORK / f"{name}.png")
