"""Pocket Canvas: 16 objects in 16 styles, drawn on the fly; UnlearnCanvas in miniature.

An image is one emoji glyph (Noto Color Emoji, SIL OFL 1.1), mirrored, scaled, turned and shifted at
random, on a two-colour gradient, then passed through a procedural style. As in UnlearnCanvas, the
same (object, index) has the same content in every style. (object, style, index) always gives the
same image.
"""

from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from erasure_datasets.styles import STYLE_FILTERS

FloatImage = NDArray[np.floating]
Split = Literal["train", "validation", "test"]

# characters per object; names with more than one entry draw one of them at random
GLYPHS: dict[str, tuple[str, ...]] = {
    "house": ("\U0001f3e0", "\U0001f3e1"),
    "bear": ("\U0001f43b", "\U0001f43c"),
    "bird": ("\U0001f426", "\U0001f99c"),
    "butterfly": ("\U0001f98b",),
    "cat": ("\U0001f431", "\U0001f63a"),
    "dog": ("\U0001f436", "\U0001f415"),
    "fish": ("\U0001f41f", "\U0001f420"),
    "flame": ("\U0001f525",),
    "flower": ("\U0001f33b", "\U0001f33c"),
    "frog": ("\U0001f438",),
    "horse": ("\U0001f434",),
    "jellyfish": ("\U0001fabc",),
    "rabbit": ("\U0001f430", "\U0001f407"),
    "sandwich": ("\U0001f96a",),
    "tower": ("\U0001f5fc",),
    "tree": ("\U0001f333", "\U0001f332"),
}
OBJECTS: tuple[str, ...] = tuple(GLYPHS)
STYLES: tuple[str, ...] = tuple(STYLE_FILTERS)

# pairs of gradient colours: pale enough for every glyph to stand out
BACKGROUNDS: tuple[tuple[str, str], ...] = (
    ("#cfe8ff", "#8fb8e8"), ("#ffe3ec", "#e39ab8"), ("#e4f5d8", "#96c78a"), ("#fff2cc", "#e0bd74"),
    ("#e9defa", "#a893d6"), ("#d8f3f0", "#79b9b4"), ("#f3f3f3", "#a9afb8"), ("#fde2cf", "#d69b78"),
)  # fmt: skip

SIZE = 64
RENDER_SIZE = 128
SPLITS: dict[Split, range] = {
    "train": range(0, 1000),
    "validation": range(1000, 1100),
    "test": range(1100, 1200),
}


def is_held_out(glyph: int, background: int) -> bool:
    """Whether this glyph on this background is drawn in the test split only."""
    return (glyph + background) % 8 == 3


@cache
def _glyph(name: str, number: int) -> Image.Image:
    with Image.open(Path(__file__).parent / "glyphs" / f"{name}-{number}.png") as image:
        return image.convert("RGBa")  # premultiplied, so that turning it leaves no dark fringe


def _content(object_index: int, index: int) -> tuple[FloatImage, FloatImage, FloatImage]:
    """The unstyled picture: (composite, background, the glyph's alpha).

    Composite and background are (128, 128, 3), the alpha is (128, 128).
    """
    name = OBJECTS[object_index]
    rng = np.random.default_rng([1, object_index, index])
    glyph, background = int(rng.integers(len(GLYPHS[name]))), int(rng.integers(len(BACKGROUNDS)))
    if index not in SPLITS["test"]:
        while is_held_out(glyph, background):
            background = int(rng.integers(len(BACKGROUNDS)))
    image = _glyph(name, glyph)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = rng.uniform(0.72, 0.88) * RENDER_SIZE / max(image.size)
    angle, shift = np.deg2rad(rng.uniform(-10, 10)), rng.uniform(-5, 5, size=2)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    middle = RENDER_SIZE / 2 + shift
    matrix = (
        cos, sin, image.width / 2 - cos * middle[0] - sin * middle[1],
        -sin, cos, image.height / 2 + sin * middle[0] - cos * middle[1],
    )  # fmt: skip
    frame = (RENDER_SIZE, RENDER_SIZE)
    placed = image.transform(frame, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    layer = np.asarray(placed, np.float32) / 255
    backdrop = _gradient(BACKGROUNDS[background], rng.uniform(0, 2 * np.pi))
    alpha = layer[..., 3]
    return layer[..., :3] + backdrop * (1 - alpha[..., None]), backdrop, alpha


def _gradient(colours: tuple[str, str], angle: float) -> FloatImage:
    first, second = (
        np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255 for c in colours
    )
    y, x = np.mgrid[-1 : 1 : RENDER_SIZE * 1j, -1 : 1 : RENDER_SIZE * 1j].astype(np.float32)
    share = np.clip(0.5 + 0.4 * (x * np.cos(angle) + y * np.sin(angle)), 0, 1).astype(np.float32)
    return first + (second - first) * share[..., None]


def render(object_index: int, style_index: int, index: int) -> NDArray[np.uint8]:
    """Draw one image: uint8 in [0, 255], (64, 64, 3). The three indices fix it."""
    picture, backdrop, alpha = _content(object_index, index)
    rng = np.random.default_rng([2, object_index, style_index, index])
    styled = STYLE_FILTERS[STYLES[style_index]](picture, backdrop, alpha, rng)
    fold = RENDER_SIZE // SIZE
    small = styled.reshape(SIZE, fold, SIZE, fold, 3).mean(axis=(1, 3))
    return np.round(np.clip(small, 0, 1) * 255).astype(np.uint8)


class PocketCanvas(torch.utils.data.Dataset[tuple[Tensor, int, int]]):
    """Every (object, style) pair `per_pair` times: items are (image, object index, style index).

    Images are uint8 in [0, 255], (3, 64, 64). Order: index outermost, then objects, then styles, so
    the first 256 items are one of each pair.
    """

    def __init__(self, split: Split, per_pair: int) -> None:
        if not 0 < per_pair <= len(SPLITS[split]):
            raise ValueError(
                f"per_pair must be in 1 to {len(SPLITS[split])} for {split}; got {per_pair}"
            )
        self.indices = SPLITS[split][:per_pair]

    def __len__(self) -> int:
        return len(self.indices) * len(OBJECTS) * len(STYLES)

    def __getitem__(self, item: int) -> tuple[Tensor, int, int]:
        index, pair = divmod(item, len(OBJECTS) * len(STYLES))
        object_index, style_index = divmod(pair, len(STYLES))
        image = render(object_index, style_index, self.indices[index])
        return torch.from_numpy(image).permute(2, 0, 1), object_index, style_index
