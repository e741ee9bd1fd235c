"""The pocket suite's UNet: epsilon prediction on 16 x 16 x 4 latents.

It is conditioned on the pocket text encoder.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from pocket_clip import tokens
from pocket_training import (
    CPU,
    SUITE,
    WORK,
    Average,
    Budget,
    MuonAdam,
    load_images,
    log,
    record,
    sheet,
    to_float,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from erasure_datasets.canvas import OBJECTS, STYLES
from erasure_datasets.captions import caption, random_caption

SCHEDULER = DPMSolverMultistepScheduler(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    steps_offset=1,
)
PER_PAIR = 80
ADAM_ONLY = ("conv_in", "conv_out", "time_embedding")


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(48, 96, 144),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=16,
        cross_attention_dim=128,
        attention_head_dim=4,
    )


@torch.no_grad()
def load_latents(device: torch.device = CPU) -> Tensor:
    """Scaled latents of training renders, (PER_PAIR, 256, 4, 16, 16); computed once and cached."""
    vae = AutoencoderKL.from_pretrained(SUITE / "vae", dtype=torch.float32)
    file = WORK / f"latents-{vae.config.scaling_factor:.6f}.pt"
    if not file.exists():
        images = load_images("train", PER_PAIR).flatten(0, 1).split(128)
        vae.to(device, memory_format=torch.channels_last)
        parts = [vae.encode(to_float(part.to(device))).latent_dist.mean.cpu() for part in images]
        latents = torch.cat(parts).contiguous().mul(vae.config.scaling_factor)
        torch.save(latents.unflatten(0, (PER_PAIR, -1)), file)
    return torch.load(file, weights_only=True)


class Captions:
    """Random captions and their encodings, each text encoded once."""

    def __init__(self, seed: int = 0) -> None:
        self.tokenizer = CLIPTokenizer.from_pretrained(SUITE / "tokenizer")
        self.encoder = CLIPTextModel.from_pretrained(SUITE / "text_encoder").eval()
        self.known: dict[str, Tensor] = {}
        self.rng = np.random.default_rng(seed)

    @torch.no_grad()
    def draw(self, pairs: list[int]) -> tuple[Tensor, Tensor]:
        """(conditions (n, 32, 128), bool (n,): does the caption name object and style?)"""
        drawn = [random_caption(*divmod(pair, len(STYLES)), self.rng) for pair in pairs]
        new = sorted({text for text, _, _ in drawn} - self.known.keys())
        if new:
            hidden = self.encoder(tokens(self.tokenizer, new)).last_hidden_state
            self.known |= dict(zip(new, hidden, strict=True))
        conditions = torch.stack([self.known[text] for text, _, _ in drawn])
        return conditions, torch.tensor([has_o and has_s for _, has_o, has_s in drawn])


def posterior_mean(z_t: Tensor, references: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[z0 | z_t] when z0 is one of the references (n, k, ...): the target with the least noise.

    Xu et al., "Stable Target Field for Reduced Variance Score Estimation" (2023), eq. 6, over all
    images of a pair.
    """
    flat, given = references.flatten(2), z_t.flatten(1)[:, None]  # (n, k, d), (n, 1, d)
    a, s = alpha.view(-1, 1), sigma.view(-1, 1)
    distance = (given - a[..., None] * flat).square().sum(2)  # (n, k)
    weights = torch.softmax(-distance / (2 * s.square()), dim=1)
    return (weights[..., None] * flat).sum(1).view_as(z_t)


def train(
    minutes: float,
    *,
    learning_rate: float = 2e-3,
    resume: bool = False,
    device: torch.device = CPU,
) -> None:
    """Train for `minutes`, with a sheet of samples every five."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    batches = Batches(device, generator)
    unet = (
        UNet2DConditionModel.from_pretrained(SUITE / "unet", dtype=torch.float32)
        if resume
        else new_unet()
    )
    unet.to(device, memory_format=torch.channels_last).train()
    optimiser = MuonAdam(unet, learning_rate, ADAM_ONLY)
    budget, average, losses, saved = Budget(minutes), Average(unet, 0.998), [], 0.0
    for step in budget.steps():
        loss = learn(unet, batches.draw(batch_size(budget)))
        optimiser.step(budget.rate())
        average.update()
        losses.append(loss)
        minute = budget.progress() * minutes
        if step % 100 == 0:
            log.info("unet %5d  %5.1f min  loss %.4f", step, minute, np.mean(losses[-100:]))
        if minute > saved + 5:
            saved = minute
            save(average, WORK / "unet")
            draw_sheet(WORK / "unet.png", WORK / "unet", styles=4)
    save(average, SUITE / "unet")
    SCHEDULER.save_pretrained(SUITE / "scheduler")
    loss_at_end = round(float(np.mean(losses[-500:])), 4)
    record("unet", {"minutes": minutes, "steps": budget.step, "loss": loss_at_end})
    write_pipeline()
    draw_sheet(WORK / "unet.png")


def batch_size(budget: Budget) -> int:
    return 32 if budget.progress() < 0.4 else 64


def learn(unet: UNet2DConditionModel, drawn: tuple[Tensor, Tensor, Tensor, Tensor]) -> float:
    """The loss of one batch; its gradients are in the weights then."""
    z_t, t, conditions, target = drawn
    predicted = unet(z_t.contiguous(memory_format=torch.channels_last), t, conditions).sample
    loss = (predicted - target).square().mean()
    loss.backward()
    return loss.item()


class Batches:
    """Noised latents of some pairs with their captions, and the target of least noise.

    Timesteps are drawn by min-SNR-5 weight, spread evenly over a batch. A pair is the number
    object * 16 + style.
    """

    def __init__(
        self,
        device: torch.device,
        generator: torch.Generator,
        pairs: Sequence[int] = range(256),
        seed: int = 0,
    ) -> None:
        self.latents, self.captions = load_latents(device).to(device), Captions(seed)
        self.pairs = torch.tensor(pairs)
        self.device, self.generator = device, generator
        self.alphas = SCHEDULER.alphas_cumprod.sqrt()
        self.sigmas = (1 - SCHEDULER.alphas_cumprod).sqrt()
        density = (5 * (self.sigmas / self.alphas).square()).clamp(max=1)
        self.ladder = (density / density.sum()).cumsum(0)

    def draw(self, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(z_t, t, conditions, target), on the device; everything random is drawn on the CPU."""
        pairs = self.pairs[torch.randint(len(self.pairs), (batch,), generator=self.generator)]
        numbers = torch.randint(PER_PAIR, (batch,), generator=self.generator)
        place = (torch.arange(batch) + torch.rand((), generator=self.generator)) / batch
        t = torch.searchsorted(self.ladder, place).clamp(max=999)
        z0 = self.latents[numbers, pairs]
        noise = torch.randn(z0.shape, generator=self.generator).to(self.device)
        a = self.alphas[t].view(-1, 1, 1, 1).to(self.device)
        s = self.sigmas[t].view(-1, 1, 1, 1).to(self.device)
        z_t = a * z0 + s * noise
        conditions, full = self.captions.draw(pairs.tolist())
        target = noise
        if full.any():
            references = self.latents[:, pairs[full]].transpose(0, 1)
            mean = posterior_mean(z_t[full], references, a[full], s[full])
            exact = (z_t[full] - a[full] * mean) / s[full]
            target = noise.index_put((full.to(self.device),), exact)
        return z_t, t.to(self.device), conditions.to(self.device), target


def save(average: Average, folder: Path) -> None:
    copy = new_unet()
    average.copy_to(copy)
    copy.half().save_pretrained(folder)


def write_pipeline() -> None:
    """model_index.json, so that StableDiffusionPipeline.from_pretrained opens the suite."""
    StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(SUITE / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(SUITE / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(SUITE / "tokenizer"),
        scheduler=SCHEDULER,
        safety_checker=None,
        unet=UNet2DConditionModel.from_pretrained(SUITE / "unet"),
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_config(SUITE)


@torch.no_grad()
def draw_sheet(
    file: Path, folder: Path = SUITE / "unet", styles: int = 16, seed: int = 188, steps: int = 12
) -> None:
    """Draw every object (down) in the first `styles` styles (across) by the protocol's sampler."""
    unet = UNet2DConditionModel.from_pretrained(folder, dtype=torch.float32)
    vae = AutoencoderKL.from_pretrained(SUITE / "vae", dtype=torch.float32)
    captions = Captions()
    texts = [caption(o, s) for o in OBJECTS for s in STYLES[:styles]]
    ids = tokens(captions.tokenizer, ["", *texts])
    hidden = captions.encoder(ids).last_hidden_state
    scheduler = DPMSolverMultistepScheduler.from_config(SCHEDULER.config)
    scheduler.set_timesteps(steps)
    z = torch.stack(
        [
            torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed * 1000 + i))
            for i in range(len(texts))
        ]
    )
    for t in scheduler.timesteps:
        both = [
            unet(part, t, h).sample
            for part, h in zip(z.split(64), hidden[1:].split(64), strict=True)
        ]
        none = [unet(part, t, hidden[:1].expand(len(part), -1, -1)).sample for part in z.split(64)]
        guided = torch.cat([n + 3 * (c - n) for c, n in zip(both, none, strict=True)])
        z = scheduler.step(guided, t, z).prev_sample
    images = torch.cat(
        [vae.decode(part / vae.config.scaling_factor).sample for part in z.split(64)]
    )
    pixels = images.add(1).mul(127.5).clamp(0, 255).byte().view(16, styles, 3, 64, 64)
    sheet(pixels, file)
