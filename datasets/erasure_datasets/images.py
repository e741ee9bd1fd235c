"""Images from folders."""

from pathlib import Path

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def find_images(folder: Path) -> list[Path]:
    """A folder's image files in natural order (2 before 10); empty if there is no such folder."""
    if not folder.is_dir():
        return []
    files = [file for file in folder.iterdir() if file.suffix.lower() in ENDINGS]
    return sorted(files, key=lambda file: (len(file.stem), file.stem))


def read_image(file: Path, size: int | None = None) -> UInt8[Tensor, "3 h w"]:
    """An RGB image in [0, 255]; `size` scales its shorter side to it and cuts the middle out."""
    with Image.open(file) as opened:
        return to_tensor(opened, size)


def to_tensor(picture: Image.Image, size: int | None = None) -> UInt8[Tensor, "3 h w"]:
    """As `read_image`, of an opened picture."""
    image = F.pil_to_tensor(picture.convert("RGB"))
    return image if size is None else F.center_crop(F.resize(image, [size], antialias=True), [size])
