"""The pocket suite's judges: a style ViT and an object ViT (which is also pocket-vit)."""

import json

import timm
import torch
from diffusers import AutoencoderKL
from pocket_clip import shifted
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
    save_half,
    sheet,
    to_float,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from erasure_datasets.canvas import OBJECTS, STYLES

VIT = {"img_size": 64, "patch_size": 8, "embed_dim": 144, "depth": 6, "num_heads": 4,
       "class_token": False, "global_pool": "avg", "fc_norm": False}  # fmt: skip
FOLDERS = {"objects": ("vit", OBJECTS), "styles": ("style-judge", STYLES)}


class TwoHeads(nn.Module):
    """One trunk learning both labels: twice the lessons per forward pass.

    It is saved as two separate judges.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = timm.models.VisionTransformer(**VIT, num_classes=0)
        self.heads = nn.ModuleDict({name: nn.Linear(144, 16) for name in FOLDERS})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.trunk(images)
        return {name: head(features) for name, head in self.heads.items()}


@torch.no_grad()
def through_autoencoder(images: Tensor) -> Tensor:
    """uint8 in and out: what the pocket autoencoder makes of the images."""
    autoencoder = AutoencoderKL.from_pretrained(SUITE / "vae", dtype=torch.float32)
    parts = [autoencoder(to_float(part), sample_posterior=True).sample for part in images.split(64)]
    return torch.cat(parts).add(1).mul(127.5).round().clamp(0, 255).byte()


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift, mirror, and vary brightness and contrast: uint8 -> float32 in about [-1, 1]."""
    x = to_float(shifted(images.float(), generator))
    if torch.rand((), generator=generator) < 0.5:
        x = x.flip(3)
    gain, offset = (torch.rand(2, len(x), 1, 1, 1, generator=generator) - 0.5) * 0.3
    x = x * (1 + gain) + offset
    return x + 0.05 * torch.randn(x.shape, generator=generator)


def train(
    minutes: float,
    *,
    learning_rate: float = 1e-3,
    resume: bool = False,
    device: torch.device = CPU,
) -> None:
    """Train on renders, half of them passed through the autoencoder where it is there already."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = TwoHeads().train()
    if resume:
        load_judges(model)
    images = load_images("train", 80).flatten(0, 1)
    if (SUITE / "vae").exists():
        log.info("passing a quarter of the images through the autoencoder")
        images = torch.cat([images, through_autoencoder(images[::4])])
        labels = torch.cat(
            [
                torch.arange(len(images) * 4 // 5) % 256,
                torch.arange(0, len(images) * 4 // 5, 4) % 256,
            ]
        )
    else:
        labels = torch.arange(len(images)) % 256
    model.to(device)
    optimiser = MuonAdam(model, learning_rate, adam_only=("heads", "pos_embed"))
    budget, average = Budget(minutes), Average(model)
    for step in budget.steps():
        picked = torch.randint(len(images), (128,), generator=generator)
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(augmented(images[picked], generator).to(device))
        right = labels[picked].to(device)
        target = {"objects": right // 16, "styles": right % 16}
        losses = {
            n: F.cross_entropy(logits[n].float(), target[n], label_smoothing=0.05) for n in target
        }
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step(budget.rate())
        average.update()
        if step % 100 == 0:
            log.info("judges %5d  %4.1f min  objects %.3f  styles %.3f",
                     step, budget.progress() * minutes,
                     losses["objects"].item(), losses["styles"].item())  # fmt: skip
    average.copy_to(model)
    save_judges(model.to(CPU))
    held_out = load_images("test", 4).flatten(0, 1)
    figures = accuracies(model.eval(), held_out)
    if (SUITE / "vae").exists():
        figures |= {
            f"{k} after autoencoder": v
            for k, v in accuracies(model, through_autoencoder(held_out)).items()
        }
    log.info("judges: %s", figures)
    record("judges", {"minutes": minutes, "steps": budget.step, **figures})


@torch.no_grad()
def accuracies(model: TwoHeads, images: Tensor) -> dict[str, float]:
    """Share of right labels; the sheet shows the images that were least surely right."""
    logits = [model(to_float(part)) for part in images.split(256)]
    pairs = torch.arange(len(images)) % 256
    truth = {"objects": pairs // 16, "styles": pairs % 16}
    said = {n: torch.cat([x[n] for x in logits]) for n in truth}
    doubt = sum(said[n].softmax(1).gather(1, truth[n][:, None])[:, 0] for n in truth)
    hardest = images[torch.as_tensor(doubt).argsort()[:64]]
    sheet(hardest.view(4, 16, *images.shape[1:]), WORK / "judges.png")
    return {n: round(float((said[n].argmax(1) == truth[n]).float().mean()), 4) for n in truth}


def save_judges(model: TwoHeads) -> None:
    """Each as timm's own hub folder: config.json and model.safetensors.

    The config holds architecture, labels and transform.
    """
    for name, (folder, labels) in FOLDERS.items():
        weights = {
            **model.trunk.state_dict(),
            **{f"head.{k}": v for k, v in model.heads[name].state_dict().items()},
        }
        save_half(weights, SUITE / folder / "model.safetensors")
        config = {
            "architecture": "vit_tiny_patch16_224",
            "num_classes": 16,
            "label_names": list(labels),
            "model_args": VIT,
            "pretrained_cfg": {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3,
                               "crop_pct": 1.0, "interpolation": "bilinear", "num_classes": 16,
                               "first_conv": "patch_embed.proj", "classifier": "head"},
        }  # fmt: skip
        (SUITE / folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_judges(model: TwoHeads) -> None:
    for name, (folder, _) in FOLDERS.items():
        weights = {k: v.float() for k, v in load_file(SUITE / folder / "model.safetensors").items()}
        model.heads[name].load_state_dict({k: weights.pop(f"head.{k}") for k in ("weight", "bias")})
        model.trunk.load_state_dict(weights)
