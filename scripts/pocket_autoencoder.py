"""The pocket suite's autoencoder: 64 px, factor 4, four channels."""

import torch
from diffusers import AutoencoderKL
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

LATENT_NOISE = (
    0.1  # what the decoder is trained to shrug off, and the posterior's standard deviation
)


def new_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=64,
        mid_block_add_attention=False,  # fully convolutional, so that it can learn from crops
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def reconstruction_loss(got: Tensor, want: Tensor) -> Tensor:
    """L1 on pixels and on their differences, which keeps edges sharp."""
    loss = (got - want).abs().mean()
    for dim in (2, 3):
        loss = loss + 0.5 * (got.diff(dim=dim) - want.diff(dim=dim)).abs().mean()
    return loss


def crops(images: Tensor, size: int, batch: int, generator: torch.Generator) -> Tensor:
    """Random crops at multiples of the factor 4, where the whole image's latents lie."""
    picked = images[torch.randint(len(images), (batch,), generator=generator)]
    y, x = (4 * torch.randint((64 - size) // 4 + 1, (2,), generator=generator)).tolist()
    return picked[:, :, y : y + size, x : x + size]


def psnr(model: AutoencoderKL, images: Tensor) -> float:
    with torch.no_grad():
        got = torch.cat(
            [model(part, sample_posterior=False).sample for part in to_float(images).split(64)]
        )
    error = ((got.clamp(-1, 1) - to_float(images)) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean())


def train(
    minutes: float,
    *,
    learning_rate: float = 3e-3,
    resume: bool = False,
    device: torch.device = CPU,
) -> None:
    """Train for `minutes`: 32 px crops for four fifths, whole images at the end."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    images, held_out = (
        load_images("train", 80).flatten(0, 1),
        load_images("test", 4).flatten(0, 1)[::4],
    )
    model = (
        AutoencoderKL.from_pretrained(SUITE / "vae", dtype=torch.float32)
        if resume
        else new_autoencoder()
    )
    model.to(device, memory_format=torch.channels_last).train()
    optimiser, budget, average = MuonAdam(model, learning_rate), Budget(minutes), Average(model)
    for step in budget.steps():
        size, batch = (32, 16) if budget.progress() < 0.8 else (64, 8)
        x = to_float(crops(images, size, batch, generator).to(device)).contiguous(
            memory_format=torch.channels_last
        )
        with torch.autocast(device.type, torch.bfloat16):
            mean = model.encode(x).latent_dist.mean
            z = mean + LATENT_NOISE * torch.randn(mean.shape, generator=generator).to(device)
            got = model.decode(z).sample.float()
        loss = reconstruction_loss(got, x) + 1e-3 * mean.float().square().mean()
        loss.backward()
        optimiser.step(budget.rate())
        average.update()
        if step % 100 == 0:
            log.info(
                "autoencoder %5d  %4.1f min  loss %.4f",
                step,
                budget.progress() * minutes,
                loss.item(),
            )
    average.copy_to(model)
    model.to(CPU)
    examples = held_out[:16]
    with torch.no_grad():
        drawn = model(to_float(examples), sample_posterior=False).sample
    drawn = drawn.add(1).mul(127.5).round().clamp(0, 255).byte()
    sheet(torch.stack([examples, drawn]), WORK / "autoencoder.png")
    finish(model, images, psnr(model, held_out), minutes, budget.step)


@torch.no_grad()
def finish(
    model: AutoencoderKL, images: Tensor, quality: float, minutes: float, steps: int
) -> None:
    """Fix the posterior's spread, set the scaling factor and save."""
    model.encoder.conv_out.weight[4:] = 0
    model.encoder.conv_out.bias[4:] = 2 * torch.tensor(LATENT_NOISE).log()
    latents = torch.cat(
        [model.encode(to_float(part)).latent_dist.mean for part in images[:1024].split(64)]
    )
    model.register_to_config(scaling_factor=float(1 / latents.std()))
    model.half().save_pretrained(SUITE / "vae")
    log.info("autoencoder: held-out PSNR %.2f dB, latent std %.3f", quality, latents.std())
    record("autoencoder", {"minutes": minutes, "steps": steps, "psnr": round(quality, 2)})
