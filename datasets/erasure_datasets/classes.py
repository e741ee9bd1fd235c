"""Labelled images for classifiers: Pocket Canvas, class folders, or a Hugging Face data set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from erasure_datasets.canvas import OBJECTS, SPLITS, STYLES, render
from erasure_datasets.images import find_images, read_image, to_tensor

Part = Literal["train", "test"]
Prepare = Callable[[UInt8[Tensor, "3 h w"]], UInt8[Tensor, "3 s s"]]
HELD_OUT = 5  # where a source has no test part, every fifth image of a class is one


@dataclass(frozen=True)
class Labelled:
    """Images in [0, 255] with a class index each."""

    images: UInt8[Tensor, "n 3 h w"]
    labels: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, classes: Sequence[int], per_class: int | None = None) -> "Labelled":
        """Only these classes, in their order, at most `per_class` images of each."""
        places = [torch.nonzero(self.labels == c).flatten()[:per_class] for c in classes]
        chosen = torch.cat(places) if places else torch.zeros(0, dtype=torch.long)
        return Labelled(self.images[chosen], self.labels[chosen])


def load_classes(
    source: str, part: Part, labels: Sequence[str], *, size: int, per_class: int,
    prepare: Prepare | None = None,
) -> Labelled:  # fmt: skip
    """Up to `per_class` images of each class that the source has.

    `source`: "canvas", an image folder (train/CLASS/*.png and test/…, or CLASS/*.png alone), or
    "hf:NAME" for a Hugging Face data set with an image and a class-label column (NAME may be a
    local folder). `prepare` cuts each whole image to one size in a model's own way; without it
    the shorter side is scaled to `size` and the middle cut out. ValueError if the source cannot
    give them.
    """
    if source == "canvas":
        return _from_canvas(part, tuple(labels), per_class, prepare)
    if source.startswith("hf:"):
        return _from_hub(source.removeprefix("hf:"), part, labels, size, per_class, prepare)
    folder = Path(source)
    if not folder.is_dir():
        raise ValueError(f"data must be canvas, hf:NAME or a folder; there is no folder {source}.")
    return _from_folder(folder, part, labels, size, per_class, prepare)


def _from_canvas(
    part: Part, labels: tuple[str, ...], per_class: int, prepare: Prepare | None
) -> Labelled:
    """Renders; the other domain's labels in turn, beginning elsewhere for each class."""
    if labels not in (OBJECTS, STYLES):
        raise ValueError("data canvas has the classes of the pocket suite's judges; name a folder.")
    images, numbers = [], []
    for label in range(len(labels)):
        for place in range(per_class):
            other, index = (5 * place + label) % 16, SPLITS[part][place // 16 % len(SPLITS[part])]
            pair = (label, other) if labels == OBJECTS else (other, label)
            image = torch.from_numpy(render(*pair, index)).permute(2, 0, 1)
            images.append(image if prepare is None else prepare(image))
            numbers.append(label)
    return Labelled(torch.stack(images), torch.tensor(numbers))


def _from_folder(
    folder: Path, part: Part, labels: Sequence[str], size: int, per_class: int,
    prepare: Prepare | None,
) -> Labelled:  # fmt: skip
    has_parts = (folder / "train").is_dir()
    if has_parts and not (folder / part).is_dir():
        raise ValueError(f"{folder} has train/ but no {part}/.")
    images, numbers = [], []
    for label, name in enumerate(labels):
        files = find_images((folder / part if has_parts else folder) / name)
        if not has_parts:
            files = [f for i, f in enumerate(files) if (i % HELD_OUT == 0) == (part == "test")]
        for file in files[:per_class]:
            images.append(prepare(read_image(file)) if prepare else read_image(file, size))
            numbers.append(label)
    if not images:
        raise ValueError(
            f"{folder} holds no image of a known class ({', '.join(labels[:5])}, ...)."
        )
    return Labelled(torch.stack(images), torch.tensor(numbers))


def _from_hub(
    name: str, part: Part, labels: Sequence[str], size: int, per_class: int,
    prepare: Prepare | None,
) -> Labelled:  # fmt: skip
    import datasets

    found: Any = datasets.load_dataset(name)
    has_parts = "test" in found
    rows = found[part] if has_parts else found["train"]
    columns = rows.features
    image = next((c for c, kind in columns.items() if isinstance(kind, datasets.Image)), None)
    label = next((c for c, kind in columns.items() if isinstance(kind, datasets.ClassLabel)), None)
    if image is None or label is None:
        raise ValueError(f"{name} needs an image and a class-label column; has {list(columns)}.")
    known = {text.lower(): number for number, text in enumerate(labels)}
    images, numbers, seen = [], [], dict[int, int]()
    for row in rows:
        number = known.get(columns[label].names[row[label]].lower())
        if number is None:
            continue
        seen[number] = place = seen.get(number, -1) + 1
        if not has_parts and (place % HELD_OUT == 0) != (part == "test"):
            continue
        if numbers.count(number) < per_class:
            whole = to_tensor(row[image], None if prepare else size)
            images.append(prepare(whole) if prepare else whole)
            numbers.append(number)
    if not images:
        raise ValueError(f"{name} has no image of the model's classes.")
    return Labelled(torch.stack(images), torch.tensor(numbers))
