"""Images from folders."""

from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as F

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def find_images(folder: Path) -> list[Path]:
    """A folder's image files in natural order (2 before 10); empty if there is no such folder."""
    if not folder.is_dir():
        return []
    files = [file for file in folder.iterdir() if file.suffix.lower() in ENDINGS]
    return sorted(files, key=lambda file: (len(file.stem), file.stem))


def read_image(file: Path, size: int) -> UInt8[Tensor, "3 size size"]:
    """An image in [0, 255], its shorter side scaled to `size`, the middle cut out."""
    image = decode_image(str(file), mode=ImageReadMode.RGB)
    return F.center_crop(F.resize(image, [size], antialias=True), [size])


def image_batch(files: list[Path], size: int) -> UInt8[Tensor, "n 3 size size"]:
    return torch.stack([read_image(file, size) for file in files])
