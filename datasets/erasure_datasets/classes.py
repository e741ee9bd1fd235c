"""Labelled images for classifiers: Pocket Canvas, class folders, or a Hugging Face data set."""

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from erasure_datasets.canvas import OBJECTS, SPLITS, STYLES
from erasure_datasets.errors import DataError, DataWarning
from erasure_datasets.hub import HUB, decode_cell, holds_parquet, open_set, stored_images
from erasure_datasets.images import find_images, read_image, unread, warn_of_unread
from erasure_datasets.labelled import Labelled, gathered, listed
from erasure_datasets.matching import match_labels, short
from erasure_datasets.rendered import rendered

Part = Literal["train", "test"]
Prepare = Callable[[UInt8[Tensor, "3 h w"]], UInt8[Tensor, "3 s s"]]
HELD_OUT = 5  # where a source has no test part, every fifth image of a class is one


@dataclass(frozen=True)
class Wanted:
    """Which images of a source are wanted: at most `per_class` of each class, or all for 0.

    `prepare` cuts each whole image to `size` in a model's own way; without it the shorter side is
    scaled to it and the middle cut out. `workers` threads read at once (0: one per core).
    """

    part: Part
    labels: tuple[str, ...]
    size: int
    per_class: int
    prepare: Prepare | None = None
    workers: int = 0

    @property
    def most(self) -> int:
        """Images of a class at most."""
        return self.per_class or sys.maxsize


def load_classes(
    source: str, part: Part, labels: Sequence[str], *, size: int, per_class: int,
    prepare: Prepare | None = None, workers: int = 0,
) -> Labelled:  # fmt: skip
    """Up to `per_class` images of each class that the source has; a warning names the others.

    `source`: "canvas"; an image folder (train/CLASS/*.png and test/…, or CLASS/*.png alone); a
    folder of parquet files as the Hub keeps them; or "hf:NAME" for a Hugging Face data set with an
    image and a class-label column (NAME may be a local folder). A source's classes are matched as
    `match_labels` says; the rest as in `Wanted`. Images that do not fit into memory are read when
    they are asked for. DataError if the source cannot give them.
    """
    wanted = Wanted(part, tuple(labels), size, per_class, prepare, workers)
    if source == "canvas":
        return _from_canvas(wanted)
    if is_of_rows(source):
        return _from_hub(source, wanted)
    return _from_folder(Path(source), wanted)


def is_of_rows(source: str) -> bool:
    """Whether a source, which is no "canvas", is a data set of rows and no image folder.

    DataError if there is no such folder, or if it could be either.
    """
    if source.startswith(HUB):
        return True
    folder = Path(source)
    if not folder.is_dir():
        raise DataError(f"data must be canvas, hf:NAME or a folder; there is no folder {source}.")
    if not holds_parquet(folder):
        return False
    found = _class_folders(folder / "train" if (folder / "train").is_dir() else folder)
    if found:
        raise DataError(
            f"{folder} holds parquet files and the image folder {found[0].name}; which of the two "
            "is meant? Put them into folders of their own."
        )
    return True


def class_names(source: str) -> tuple[str, ...]:
    """The classes that a source itself names: a folder's, by name, or a data set's, in its order.

    Of "canvas" they are its objects. DataError for a source without classes.
    """
    if source == "canvas":
        return OBJECTS
    if is_of_rows(source):
        found = _opened(source, "train")
        return tuple(found.rows.features[found.label].names)
    folder = Path(source)
    place = folder / "train" if (folder / "train").is_dir() else folder
    names = tuple(path.name for path in _class_folders(place))
    if not names:
        raise DataError(f"{place} must have a folder of images for each class; it has none.")
    return names


def _class_folders(place: Path) -> list[Path]:
    """The folders that hold images, by name; not hidden ones."""
    inner = sorted(path for path in place.iterdir() if path.is_dir() and path.name[0] != ".")
    return [path for path in inner if find_images(path)]


def _gathered(
    read: Callable[[int], Tensor], numbers: list[int], ids: list[str], wanted: Wanted, source: str
) -> Labelled:
    own = set(numbers)
    lacking = [label for place, label in enumerate(wanted.labels) if place not in own]
    if not ids:
        raise DataError(f"{source} holds no image of a known class ({listed(wanted.labels)}).")
    if lacking:
        warnings.warn(f"{source} has no images of {listed(lacking)}", DataWarning, stacklevel=4)
    return gathered(read, numbers, ids, wanted.size, workers=wanted.workers)


def _from_canvas(wanted: Wanted) -> Labelled:
    """Renders; the other domain's labels in turn, beginning elsewhere for each class."""
    labels, part = wanted.labels, wanted.part
    if labels not in (OBJECTS, STYLES):
        raise DataError("data canvas has the classes of the pocket suite's judges; name a folder.")
    per_class = min(wanted.most, 16 * len(SPLITS[part]))  # beyond that they would repeat
    places, numbers = [], []
    for label in range(len(labels)):
        for place in range(per_class):
            other, index = (5 * place + label) % 16, SPLITS[part][place // 16 % len(SPLITS[part])]
            places.append((label, other, index) if labels == OBJECTS else (other, label, index))
            numbers.append(label)
    images = torch.from_numpy(rendered(places)).permute(0, 3, 1, 2).contiguous()
    if wanted.prepare is not None:
        images = torch.stack([wanted.prepare(image) for image in images])
    ids = tuple(f"{labels[label]} {i % per_class}" for i, label in enumerate(numbers))
    return Labelled(images, torch.tensor(numbers), ids)


def _from_folder(folder: Path, wanted: Wanted) -> Labelled:
    has_parts, part = (folder / "train").is_dir(), wanted.part
    if has_parts and not (folder / part).is_dir():
        raise DataError(f"{folder} has train/ but no {part}/.")
    place = folder / part if has_parts else folder
    inner = sorted(path for path in place.iterdir() if path.is_dir() and path.name[0] != ".")
    found = {path.name: files for path in inner if (files := find_images(path))}
    others = [entry for path in inner for entry in unread(path, found.get(path.name, []))]
    warn_of_unread(place, [*unread(place, inner), *others])
    known = match_labels(list(found), wanted.labels, str(place))
    chosen: list[Path] = []
    numbers: list[int] = []
    for name, label in sorted(known.items(), key=lambda pair: pair[1]):
        files = found[name]
        if not has_parts:
            files = [f for i, f in enumerate(files) if (i % HELD_OUT == 0) == (part == "test")]
        files = files[: wanted.most]
        chosen += files
        numbers += [label] * len(files)

    def read(row: int) -> Tensor:
        file = chosen[row]
        return wanted.prepare(read_image(file)) if wanted.prepare else read_image(file, wanted.size)

    ids = [file.relative_to(folder).as_posix() for file in chosen]
    return _gathered(read, numbers, ids, wanted, str(place))


@dataclass(frozen=True)
class Rows:
    """A part of a data set, or all of one without parts, and its columns of images and classes."""

    rows: Any
    image: str
    label: str
    has_parts: bool


def _opened(source: str, part: Part) -> Rows:
    import datasets

    found: Any = open_set(source.removeprefix(HUB), what=source)
    has_parts = "test" in found
    split = part if has_parts else "train"
    if split not in found:
        raise DataError(f"{source} must have a split {split}; has {', '.join(found)}.")
    columns = found[split].features
    image = next((c for c, kind in columns.items() if isinstance(kind, datasets.Image)), None)
    label = next((c for c, kind in columns.items() if isinstance(kind, datasets.ClassLabel)), None)
    if image is None or label is None:
        raise DataError(f"{source} needs an image and a class-label column; has {list(columns)}.")
    return Rows(found[split], image, label, has_parts)


def _from_hub(source: str, wanted: Wanted) -> Labelled:
    found = _opened(source, wanted.part)
    names, kinds = found.rows.features[found.label].names, found.rows[found.label][:]
    chosen = _chosen_rows(kinds, names, wanted, source, has_parts=found.has_parts)
    rows, column = stored_images(found.rows, found.image), found.image

    def read(place: int) -> Tensor:
        row = chosen[place][0]
        whole = decode_cell(
            rows[row][column], f"row {row} of {source}", None if wanted.prepare else wanted.size
        )
        return wanted.prepare(whole) if wanted.prepare else whole

    ids = [f"row {row}" for row, _ in chosen]
    return _gathered(read, [number for _, number in chosen], ids, wanted, source)


def _chosen_rows(
    kinds: Sequence[int | None], names: Sequence[str], wanted: Wanted, source: str, *,
    has_parts: bool,
) -> list[tuple[int, int]]:  # fmt: skip
    """(row, class) of the images to take, in the set's order; rows without a label are left out."""
    used = {kind for kind in kinds if kind is not None and kind >= 0}
    if [short(name) for name in names] == [short(label) for label in wanted.labels]:
        matched = {kind: kind for kind in used}
    else:
        known = match_labels([names[kind] for kind in sorted(used)], wanted.labels, source)
        matched = {kind: known[names[kind]] for kind in used if names[kind] in known}
    chosen, seen, taken = [], Counter[int](), Counter[int]()
    for row, kind in enumerate(kinds):
        number = None if kind is None else matched.get(kind)
        if number is None or taken[number] >= wanted.most:
            continue
        seen[number] += 1
        if has_parts or ((seen[number] - 1) % HELD_OUT == 0) == (wanted.part == "test"):
            chosen.append((row, number))
            taken[number] += 1
    return chosen
