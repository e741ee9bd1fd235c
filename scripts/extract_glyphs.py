"""Cut Pocket Canvas' glyphs out of Noto Color Emoji (Debian: fonts-noto-color-emoji) as small PNGs.

The PNGs are committed, so the font is not needed at run time. Run once:
    python scripts/extract_glyphs.py /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from erasure_datasets.canvas import GLYPHS

GLYPH_FOLDER = Path(__file__).parents[1] / "datasets" / "erasure_datasets" / "glyphs"


def extract(font_file: Path) -> None:
    """Draw every glyph at the font's one bitmap size (109 px, 136 x 128); save it with alpha."""
    font = ImageFont.truetype(str(font_file), 109)
    for name, characters in GLYPHS.items():
        for number, character in enumerate(characters):
            image = Image.new("RGBA", (136, 128))
            ImageDraw.Draw(image).text((0, 0), character, font=font, embedded_color=True)
            box = image.getbbox()
            if box is None:
                raise SystemExit(f"{font_file} has no glyph for {name} ({character!r})")
            image.crop(box).save(GLYPH_FOLDER / f"{name}-{number}.png", optimize=True)


if __name__ == "__main__":
    extract(Path(sys.argv[1]))
