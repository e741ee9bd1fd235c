"""Images from folders, data sets and answers: the one reader, which gives what a viewer shows."""

import io
import struct
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from erasure_datasets.errors import DataError, DataWarning

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SYSTEM = ("thumbs.db", "desktop.ini")  # what Windows leaves in folders of pictures
# what Pillow's decoders raise on broken files
UNREADABLE = (
    OSError, ValueError, SyntaxError, EOFError, struct.error, LookupError, TypeError,
    ArithmeticError, MemoryError, Image.DecompressionBombError,
)  # fmt: skip


class ImageError(DataError):
    """A picture that cannot be read."""


def find_images(folder: Path) -> list[Path]:
    """A folder's image files in natural order (2 before 10); empty if there is no such folder.

    Hidden files are none, macOS' `._NAME` among them.
    """
    if not folder.is_dir():
        return []
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in ENDINGS and not file.name.startswith(".")
    ]
    return sorted(files, key=lambda file: (len(file.stem), file.name))


def unread(folder: Path, read: Iterable[Path]) -> list[Path]:
    """What else lies in a folder than these; not what is hidden, or a system's own."""
    known = {*read}
    return [
        entry
        for entry in sorted(folder.iterdir())
        if entry not in known and entry.name[0] != "." and entry.name.lower() not in SYSTEM
    ]


def warn_of_unread(folder: Path, entries: Sequence[Path]) -> None:
    """A warning, in one line, if there are any."""
    if entries:
        first = f"{entries[0].relative_to(folder)}{'/' if entries[0].is_dir() else ''}"
        warnings.warn(
            f"{folder} holds what is not read: {first}"
            + (f" and {len(entries) - 1} more" if len(entries) > 1 else "")
            + f". Pictures lie in the folder itself and end in {', '.join(ENDINGS)}.",
            DataWarning,
            stacklevel=3,
        )


def read_image(file: Path, size: int | None = None) -> UInt8[Tensor, "3 h w"]:
    """An RGB image in [0, 255]; `size` scales its shorter side to it and cuts the middle out.

    It is turned as its EXIF record says. What is transparent shows white. 16 bits are scaled to 8,
    floating point from [0, 1]; of an animation it is the first frame. ImageError names the file if
    it cannot be read whole.
    """
    if file.is_dir():
        raise ImageError(f"{file} is a folder, and no picture.")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ImageError(f"{file} cannot be read: {error.strerror or error}.") from error
    return decode_image(data, str(file), size)


def decode_image(data: bytes, where: str, size: int | None = None) -> UInt8[Tensor, "3 h w"]:
    """As `read_image`, of a file's bytes that come from `where`."""
    if not data:
        raise ImageError(f"{where} is empty, and no picture.")
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            picture = _as_seen(ImageOps.exif_transpose(opened))
    except UNREADABLE as error:
        raise ImageError(f"{where} cannot be read as a picture: {_reason(error)}.") from error

    from torchvision.transforms.v2 import functional as F  # as long to import as torch

    image = F.pil_to_tensor(picture)
    return image if size is None else F.center_crop(F.resize(image, [size], antialias=True), [size])


def image_size(file: Path) -> tuple[int, int]:
    """(width, height) by the file's header alone; ImageError if it has none."""
    try:
        with Image.open(file) as opened:
            return opened.size
    except UNREADABLE as error:
        raise ImageError(f"{file} cannot be read as a picture: {_reason(error)}.") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "its format is unknown"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _as_seen(picture: Image.Image) -> Image.Image:
    """In RGB: deep grey scaled to 8 bits, transparency on white."""
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = _shallow(picture)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    cut_out = picture.convert("RGBA")
    white = Image.new("RGBA", cut_out.size, "white")
    return Image.alpha_composite(white, cut_out).convert("RGB")


def _shallow(picture: Image.Image) -> Image.Image:
    """8-bit grey of 16-bit grey or of floating point; ValueError for values outside these."""
    values, highest = np.asarray(picture, dtype=np.float64), 1 if picture.mode == "F" else 65535
    if not (values.min() >= 0 and values.max() <= highest):
        raise ValueError(
            f"its grey values must be in 0 to {highest}; got {values.min():g} to {values.max():g}"
        )
    clear = picture.info.get("transparency")
    if isinstance(clear, int):
        values = np.where(values == clear, highest, values)
    return Image.fromarray(np.round(values * (255 / highest)).astype(np.uint8))
