"""UnlearnCanvas: 20 objects as photographs and in 60 painted styles, 20 images of each pair.

Zhang et al., "UnlearnCanvas", NeurIPS 2024 (data sets and benchmarks),
https://arxiv.org/abs/2402.11846. The lists keep the benchmark's own order, which is its
classifiers' label order and not quite alphabetical: never sort them.
"""

import re
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from erasure_datasets.errors import DataError
from erasure_datasets.hub import HUB, decode_cell, open_set, stored_images
from erasure_datasets.images import read_image

PHOTOS = "Seed_Images"  # the photographs that the styles were painted from
EXCLUDED = (
    "Blue_Blooming", "Crypto_Punks", "Dreamweave", "Foliage_Patchwork", "Impasto", "Palette_Knife",
    "Pointillism", "Rainwash", "Realistic_Watercolor", "Techno",
)  # fmt: skip
ALL_THEMES = (
    "Abstractionism", "Artist_Sketch", "Blossom_Season", "Blue_Blooming", "Bricks", "Byzantine",
    "Cartoon", "Cold_Warm", "Color_Fantasy", "Comic_Etch", "Crayon", "Crypto_Punks", "Cubism",
    "Dadaism", "Dapple", "Defoliation", "Dreamweave", "Early_Autumn", "Expressionism", "Fauvism",
    "Foliage_Patchwork", "French", "Glowing_Sunset", "Gorgeous_Love", "Greenfield", "Impasto",
    "Impressionism", "Ink_Art", "Joy", "Liquid_Dreams", "Palette_Knife", "Magic_Cube",
    "Meta_Physics", "Meteor_Shower", "Monet", "Mosaic", "Neon_Lines", "On_Fire", "Pastel",
    "Pencil_Drawing", "Picasso", "Pointillism", "Pop_Art", "Rainwash", "Realistic_Watercolor",
    "Red_Blue_Ink", "Rust", PHOTOS, "Sketch", "Sponge_Dabbed", "Structuralism", "Superstring",
    "Surrealism", "Techno", "Ukiyoe", "Van_Gogh", "Vibrant_Flow", "Warm_Love", "Warm_Smear",
    "Watercolor", "Winter",
)  # fmt: skip
THEMES = tuple(theme for theme in ALL_THEMES if theme not in EXCLUDED)  # the style judge's labels
STYLES = tuple(theme for theme in THEMES if theme != PHOTOS)  # what can be erased
OBJECTS = (
    "Architectures", "Bears", "Birds", "Butterfly", "Cats", "Dogs", "Fishes", "Flame", "Flowers",
    "Frogs", "Horses", "Human", "Jellyfish", "Rabbits", "Sandwiches", "Sea", "Statues", "Towers",
    "Trees", "Waterfalls",
)  # fmt: skip

Split = Literal["train", "validation", "test"]
# images 1 to 20 in the shares 0.9, 0.05 and 0.05 that the base model was trained with
SPLITS: dict[Split, range] = {
    "train": range(1, 19),
    "validation": range(19, 20),
    "test": range(20, 21),
}
CAPTION = re.compile(r"an? (.+) image in (.+) style\.?", re.IGNORECASE)


def caption(object_name: str, theme: str, photo: str = "Photo") -> str:
    """The benchmark's sentence; `photo` is what the theme Seed_Images is called in it.

    The base model learned "Photo"; the published samplers ask for "Seed Images".
    """
    style = photo if theme == PHOTOS else theme.replace("_", " ")
    return f"A {object_name} image in {style} style."


class UnlearnCanvas(torch.utils.data.Dataset[tuple[Tensor, int, int]]):
    """Every (object, theme) pair `per_pair` times: items are (image, object index, theme index).

    `source` is a folder of {theme}/{object}/{n}.jpg, or "hf:NAME" for the Hub's parquet files
    (OPTML-Group/UnlearnCanvas, or a local folder of them). Images are uint8 in [0, 255],
    (3, size, size), cut square. Indices are those of OBJECTS and THEMES, whatever `themes` are
    asked for. Order: image number outermost, then objects, then themes, as in PocketCanvas.
    ValueError if an image is not there.
    """

    def __init__(
        self, source: str | Path, split: Split, per_pair: int, *, size: int = 512,
        themes: tuple[str, ...] = THEMES,
    ) -> None:  # fmt: skip
        if not 0 < per_pair <= len(SPLITS[split]):
            raise ValueError(
                f"per_pair must be in 1 to {len(SPLITS[split])} for {split}; got {per_pair}"
            )
        unknown = [theme for theme in themes if theme not in THEMES]
        if unknown:
            raise ValueError(f"UnlearnCanvas' judges know no theme {unknown[0]!r}")
        self.size = size
        self._keys = [
            (theme, name, number)
            for number in SPLITS[split][:per_pair]
            for name in OBJECTS
            for theme in themes
        ]
        name = str(source)
        self._store = (
            _Hub(name.removeprefix(HUB)) if name.startswith(HUB) else _Folder(Path(source))
        )
        lacking = [key for key in self._keys if key not in self._store]
        if lacking:
            raise ValueError(
                f"{source} lacks {len(lacking)} of {len(self._keys)} images; "
                f"the first is {'/'.join(map(str, lacking[0]))}.jpg"
            )

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, item: int) -> tuple[Tensor, int, int]:
        theme, name, _ = self._keys[item]
        image = self._store.read(self._keys[item], self.size)
        return image, OBJECTS.index(name), THEMES.index(theme)


Key = tuple[str, str, int]


class _Folder:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _file(self, key: Key) -> Path:
        return self.folder / key[0] / key[1] / f"{key[2]}.jpg"

    def __contains__(self, key: Key) -> bool:
        return self._file(key).is_file()

    def read(self, key: Key, size: int) -> Tensor:
        return read_image(self._file(key), size)


class _Hub:
    """Rows of an image and a caption, found by what the caption names."""

    def __init__(self, name: str) -> None:
        rows = open_set(name, "train")
        if not {"image", "text"} <= set(rows.column_names):
            raise DataError(f"{name} needs the columns image and text; has {rows.column_names}")
        self._rows, self._places = stored_images(rows, "image"), dict[Key, int]()
        self.name = name
        themes = {theme.replace("_", " ").lower(): theme for theme in ALL_THEMES}
        themes["photo"] = PHOTOS
        objects = {name.lower(): name for name in OBJECTS}
        seen: dict[tuple[str, str], int] = {}
        for row, (text, number) in enumerate(zip(rows["text"], _numbers(rows), strict=True)):
            found = CAPTION.fullmatch(text or "")
            if found is None or found[2].lower() not in themes or found[1].lower() not in objects:
                raise DataError(f"{name} has a caption that is none of UnlearnCanvas': {text!r}")
            pair = themes[found[2].lower()], objects[found[1].lower()]
            seen[pair] = seen.get(pair, 0) + 1
            self._places[(*pair, number or seen[pair])] = row

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def read(self, key: Key, size: int) -> Tensor:
        place = self._places[key]
        return decode_cell(self._rows[place]["image"], f"row {place} of {self.name}", size)


def _numbers(rows: Any) -> list[int | None]:
    """Each image's number where the file's name is kept, without reading the images."""
    stored = rows.data.column("image").chunks  # structs of bytes and path
    paths = [path for chunk in stored for path in chunk.field("path").to_pylist()]
    stems = [Path(path or "").stem for path in paths]
    return [int(stem) if stem.isdigit() else None for stem in stems]
