"""Train a judge: fine-tune any timm model on labelled images."""

from collections.abc import Callable
from pathlib import Path

import timm
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.errors import SettingError
from erasure.files.storage import atomic, write_json, write_tensors

Augmentation = Callable[[Float[Tensor, "n 3 h w"], torch.Generator], Float[Tensor, "n 3 h w"]]


def shift_and_mirror(
    images: Float[Tensor, "n 3 h w"], generator: torch.Generator
) -> Float[Tensor, "n 3 h w"]:
    """Shift the batch by up to a sixteenth of its size, repeating the border.

    Half of the batches are mirrored.
    """
    h, w = images.shape[-2:]
    reach = max(h // 16, 1)
    y, x = torch.randint(2 * reach + 1, (2,), generator=generator).tolist()
    shifted = F.pad(images, (reach,) * 4, mode="replicate")[:, :, y : y + h, x : x + w]
    return shifted.flip(3) if torch.rand((), generator=generator) < 0.5 else shifted


def train_classifier(
    model: nn.Module, images: UInt8[Tensor, "n 3 h w"], labels: Int[Tensor, " n"], *, steps: int,
    batch_size: int = 128, learning_rate: float = 1e-3, seed: int = 0,
    augmentation: Augmentation = shift_and_mirror,
) -> list[float]:  # fmt: skip
    """Minimise cross-entropy by AdamW with linear decay; images in [0, 255] are scaled to [-1, 1].

    Returns the loss of every step. SettingError if images and labels differ in number.
    """
    if len(images) != len(labels):
        raise SettingError(
            f"labels must be one per image; got {len(labels)} for {len(images)} images."
        )
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
    losses = []
    model.train()
    for _ in range(steps):
        picked = torch.randint(len(images), (batch_size,), generator=generator)
        x = augmentation(images[picked].float().div(127.5).sub(1), generator)
        loss = F.cross_entropy(model(x), labels[picked])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    model.eval()
    return losses


def save_classifier(
    model: nn.Module,
    folder: Path,
    *,
    architecture: str,
    labels: list[str],
    size: int,
    model_args: dict[str, object],
) -> None:
    """Write timm's hub folder: config.json and model.safetensors.

    The config holds architecture, labels and transform.
    """
    config = {
        "architecture": architecture, "num_classes": len(labels), "label_names": labels,
        "model_args": model_args,
        "pretrained_cfg": {"input_size": [3, size, size], "mean": [0.5] * 3, "std": [0.5] * 3,
                           "crop_pct": 1.0, "interpolation": "bilinear",
                           "num_classes": len(labels)},
    }  # fmt: skip
    with atomic(folder) as temporary:
        write_tensors(temporary / "model.safetensors", model.state_dict())
        write_json(temporary / "config.json", config)


def new_vit(
    labels: int, size: int = 64, patch: int = 8, width: int = 144, depth: int = 6
) -> nn.Module:
    """A small timm VisionTransformer for images of `size` pixels."""
    return timm.models.VisionTransformer(
        img_size=size,
        patch_size=patch,
        embed_dim=width,
        depth=depth,
        num_heads=4,
        num_classes=labels,
    )
