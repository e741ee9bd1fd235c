"""Pictures side by side, with names."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MARGIN, LINE = 150, 22


def grid(
    rows: Sequence[UInt8[Tensor, "n 3 h w"]],
    row_names: Sequence[str],
    column_names: Sequence[str],
    *,
    zoom: int = 2,
) -> Image.Image:
    """One row of images in [0, 255] per name, on white with the names beside and above.

    All rows hold the same number of images, all of one size.
    """
    count, _, h, w = rows[0].shape
    h, w = h * zoom, w * zoom
    picture = Image.new("RGB", (MARGIN + count * (w + 4), LINE + len(rows) * (h + 4)), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=14)
    for column, name in enumerate(column_names):
        pen.text((MARGIN + column * (w + 4) + 2, 3), _fit(name, w // 8), fill="black", font=font)
    for number, (images, name) in enumerate(zip(rows, row_names, strict=True)):
        top = LINE + number * (h + 4)
        pen.text((6, top + h // 2 - 8), _fit(name, MARGIN // 8), fill="black", font=font)
        for column, image in enumerate(images):
            pixels = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
            picture.paste(
                pixels.resize((w, h), Image.Resampling.NEAREST), (MARGIN + column * (w + 4), top)
            )
    return picture


def _fit(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"
