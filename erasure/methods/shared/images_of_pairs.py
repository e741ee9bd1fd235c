"""Images of an (object, style) pair: Pocket Canvas', or a folder's in UnlearnCanvas' layout."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from erasure.errors import SettingError
from erasure_datasets.canvas import OBJECTS, SPLITS, STYLES, render
from erasure_datasets.images import find_images, read_image, unread, warn_of_unread

ImageOf = Callable[[str, str, int], Tensor]  # (object, style, number) -> uint8 (3, h, w)


def canvas_image(name: str, style: str, number: int) -> Tensor:
    """uint8 (3, 64, 64): a pair's training image."""
    index = SPLITS["train"][number % len(SPLITS["train"])]
    image = render(OBJECTS.index(name), STYLES.index(style), index)
    return torch.from_numpy(image).permute(2, 0, 1)


def image_from(folder: Path, size: int) -> ImageOf:
    """Images of a folder in UnlearnCanvas' layout, {style}/{object}/{n}.jpg, taken in turn."""

    @cache
    def listed(place: str) -> list[Path]:
        files = find_images(folder / place)
        if not files:
            raise SettingError(f"images: {folder} has no {place}/*.jpg or *.png.")
        warn_of_unread(folder / place, unread(folder / place, files))
        return files

    def image(name: str, style: str, number: int) -> Tensor:
        files = listed(f"{style.replace(' ', '_')}/{name}")
        return read_image(files[number % len(files)], size)

    return image
