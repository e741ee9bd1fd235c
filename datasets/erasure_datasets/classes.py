"""Labelled images for classifiers: Pocket Canvas, class folders, or a Hugging Face data set."""

import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from erasure_datasets.canvas import OBJECTS, SPLITS, STYLES
from erasure_datasets.errors import DataError, DataWarning
from erasure_datasets.hub import decode_cell, open_set, stored_images
from erasure_datasets.images import find_images, read_image, unread, warn_of_unread
from erasure_datasets.rendered import rendered

Part = Literal["train", "test"]
Prepare = Callable[[UInt8[Tensor, "3 h w"]], UInt8[Tensor, "3 s s"]]
HELD_OUT = 5  # where a source has no test part, every fifth image of a class is one


@dataclass(frozen=True)
class Labelled:
    """Images in [0, 255] with a class index and an id each.

    The id is the file's place in an image folder, "row 3" of a data set, "cat 3" of the renders.
    """

    images: UInt8[Tensor, "n 3 h w"]
    labels: Int[Tensor, " n"]
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, classes: Sequence[int], per_class: int | None = None) -> "Labelled":
        """Only these classes, in their order, at most `per_class` images of each."""
        places = [torch.nonzero(self.labels == c).flatten()[:per_class] for c in classes]
        return self.at(torch.cat(places).tolist() if places else [])

    def at(self, places: Sequence[int]) -> "Labelled":
        """Only the images at these places, in their order."""
        chosen = torch.tensor(places, dtype=torch.long)
        ids = tuple(self.ids[place] for place in places)
        return Labelled(self.images[chosen], self.labels[chosen], ids)

    def split(self, samples: Sequence[str]) -> tuple["Labelled", "Labelled"]:
        """(these images, all others); each is given by its id, or by its place here, from 0.

        DataError for one that is not here or is asked for twice.
        """
        known, found = {own: place for place, own in enumerate(self.ids)}, dict[int, str]()
        for sample in samples:
            is_place = sample.isascii() and sample.isdigit() and int(sample) < len(self)
            place = int(sample) if is_place else known.get(sample)
            if place is None:
                raise DataError(
                    f"samples must be ids of training images ({_listed(self.ids)}) or places from "
                    f"0 to {len(self) - 1}; got {sample!r}."
                )
            if place in found:
                raise DataError(f"samples {found[place]!r} and {sample!r} are the same image.")
            found[place] = sample
        rest = [place for place in range(len(self)) if place not in found]
        return self.at(list(found)), self.at(rest)


def joined(first: Labelled, second: Labelled) -> Labelled:
    """The images of both, the first one's first."""
    return Labelled(
        torch.cat([first.images, second.images]), torch.cat([first.labels, second.labels]),
        (*first.ids, *second.ids),
    )  # fmt: skip


def read_samples(file: Path) -> list[str]:
    """The images that a text file names, one in each line that is not empty; DataError if none."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"samples must be a text file; {file} is none: {error}.") from error
    if not any(lines):
        raise DataError(f"samples must name at least one image; {file} has none.")
    return [line for line in lines if line]


def load_classes(
    source: str, part: Part, labels: Sequence[str], *, size: int, per_class: int,
    prepare: Prepare | None = None,
) -> Labelled:  # fmt: skip
    """Up to `per_class` images of each class that the source has; a warning names the others.

    `source`: "canvas", an image folder (train/CLASS/*.png and test/…, or CLASS/*.png alone), or
    "hf:NAME" for a Hugging Face data set with an image and a class-label column (NAME may be a
    local folder). A source's classes are matched as `match_labels` says. `prepare` cuts each whole
    image to one size in a model's own way; without it the shorter side is scaled to `size` and the
    middle cut out. DataError if the source cannot give them.
    """
    if source == "canvas":
        return _from_canvas(part, tuple(labels), per_class, prepare)
    if source.startswith("hf:"):
        return _from_hub(source.removeprefix("hf:"), part, labels, size, per_class, prepare)
    folder = Path(source)
    if not folder.is_dir():
        raise DataError(f"data must be canvas, hf:NAME or a folder; there is no folder {source}.")
    return _from_folder(folder, part, labels, size, per_class, prepare)


def match_labels(names: Sequence[str], labels: Sequence[str], source: str) -> dict[str, int]:
    """The class of each of a source's names that is one, by the first rule that finds any.

    The label itself; without regard to case, `_`, `-` and blanks; its part before a comma; "#134"
    by number. If none is found so and all are numbers, they are the classes' numbers; if all are
    ImageNet's WordNet ids and there are 1000 labels, theirs. DataError if one name is of several
    classes or one class has several names, or if there are both names of no class and classes of
    no name.
    """
    same = next((name for name, count in Counter(names).items() if count > 1), None)
    if same is not None:
        raise DataError(f"{source} must have different names for its classes; has {same!r} twice.")
    found = _named(names, labels)
    if not any(found.values()):
        found = {name: _numbered(name, names, labels) for name in names}
    for name, places in found.items():
        if len(places) > 1:
            numbers = ", ".join(f"#{place}" for place in places[:5])
            raise DataError(
                f"{name!r} in {source} is the name of {len(places)} classes ({numbers}); give "
                "them by their numbers."
            )
    matched = {name: places[0] for name, places in found.items() if places}
    for place, count in Counter(matched.values()).items():
        if count > 1:
            twice = " and ".join(repr(name) for name in matched if matched[name] == place)
            raise DataError(f"{source} must have each class once; {twice} are {labels[place]!r}.")
    unknown = [name for name in names if name not in matched]
    lacking = [label for place, label in enumerate(labels) if place not in matched.values()]
    if not matched:
        raise DataError(
            f"{source} holds no image of a known class ({_listed(labels)}); has {_listed(unknown)}."
        )
    if unknown and lacking:
        raise DataError(
            f"{source} must have the model's names for its classes; {_listed(unknown)} are no "
            f"classes, and there are no images of {_listed(lacking)}. Rename or remove them."
        )
    return matched


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "") or "none"


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _short(name: str) -> str:
    """Without what follows a comma, or the number of a label that several classes have."""
    return _plain(re.sub(r"(,.*| #\d+)$", "", name))


def _named(names: Sequence[str], labels: Sequence[str]) -> dict[str, list[int]]:
    """The classes that each name can be."""
    known: list[tuple[Callable[[str], str], dict[str, list[int]]]] = []
    for form in (str, _plain, _short):
        places: dict[str, list[int]] = {}
        for place, label in enumerate(labels):
            places.setdefault(form(label), []).append(place)
        known.append((form, places))
    numbers = {f"#{place}": [place] for place in range(len(labels))}
    return {
        name: next((of[form(name)] for form, of in known if form(name) in of), None)
        or numbers.get(name, [])
        for name in names
    }


def _numbered(name: str, names: Sequence[str], labels: Sequence[str]) -> list[int]:
    if all(re.fullmatch(r"[0-9]+", other) for other in names):
        return [int(name)] if int(name) < len(labels) else []
    if len(labels) == 1000 and all(re.fullmatch(r"n\d{8}", other) for other in names):
        from timm.data import ImageNetInfo

        return [place for place, word in enumerate(ImageNetInfo().label_names()) if word == name]
    return []


def _gathered(
    images: list[Tensor], numbers: list[int], ids: list[str], labels: Sequence[str], source: str
) -> Labelled:
    lacking = [label for place, label in enumerate(labels) if place not in set(numbers)]
    if not images:
        raise DataError(f"{source} holds no image of a known class ({_listed(labels)}).")
    if lacking:
        warnings.warn(f"{source} has no images of {_listed(lacking)}", DataWarning, stacklevel=4)
    return Labelled(torch.stack(images), torch.tensor(numbers), tuple(ids))


def _from_canvas(
    part: Part, labels: tuple[str, ...], per_class: int, prepare: Prepare | None
) -> Labelled:
    """Renders; the other domain's labels in turn, beginning elsewhere for each class."""
    if labels not in (OBJECTS, STYLES):
        raise DataError("data canvas has the classes of the pocket suite's judges; name a folder.")
    places, numbers = [], []
    for label in range(len(labels)):
        for place in range(per_class):
            other, index = (5 * place + label) % 16, SPLITS[part][place // 16 % len(SPLITS[part])]
            places.append((label, other, index) if labels == OBJECTS else (other, label, index))
            numbers.append(label)
    images = torch.from_numpy(rendered(places)).permute(0, 3, 1, 2).contiguous()
    if prepare is not None:
        images = torch.stack([prepare(image) for image in images])
    ids = tuple(f"{labels[label]} {i % per_class}" for i, label in enumerate(numbers))
    return Labelled(images, torch.tensor(numbers), ids)


def _from_folder(
    folder: Path, part: Part, labels: Sequence[str], size: int, per_class: int,
    prepare: Prepare | None,
) -> Labelled:  # fmt: skip
    has_parts = (folder / "train").is_dir()
    if has_parts and not (folder / part).is_dir():
        raise DataError(f"{folder} has train/ but no {part}/.")
    place = folder / part if has_parts else folder
    inner = sorted(path for path in place.iterdir() if path.is_dir() and path.name[0] != ".")
    found = {path.name: files for path in inner if (files := find_images(path))}
    others = [entry for path in inner for entry in unread(path, found.get(path.name, []))]
    warn_of_unread(place, [*unread(place, inner), *others])
    matched = {place: name for name, place in match_labels(list(found), labels, str(place)).items()}
    images, numbers, ids = [], [], []
    for label in sorted(matched):
        files = found[matched[label]]
        if not has_parts:
            files = [f for i, f in enumerate(files) if (i % HELD_OUT == 0) == (part == "test")]
        for file in files[:per_class]:
            images.append(prepare(read_image(file)) if prepare else read_image(file, size))
            numbers.append(label)
            ids.append(file.relative_to(folder).as_posix())
    return _gathered(images, numbers, ids, labels, str(place))


def _from_hub(
    name: str, part: Part, labels: Sequence[str], size: int, per_class: int,
    prepare: Prepare | None,
) -> Labelled:  # fmt: skip
    import datasets

    found: Any = open_set(name)
    has_parts = "test" in found
    split = part if has_parts else "train"
    if split not in found:
        raise DataError(f"hf:{name} must have a split {split}; has {', '.join(found)}.")
    columns = found[split].features
    image = next((c for c, kind in columns.items() if isinstance(kind, datasets.Image)), None)
    label = next((c for c, kind in columns.items() if isinstance(kind, datasets.ClassLabel)), None)
    if image is None or label is None:
        raise DataError(f"{name} needs an image and a class-label column; has {list(columns)}.")
    chosen = _chosen_rows(found[split][label], columns[label].names, part, labels, f"hf:{name}",
                          per_class, has_parts)  # fmt: skip
    rows = stored_images(found[split], image)
    images, numbers, ids = [], [], []
    for row, number in chosen:
        cell, where = rows[row][image], f"row {row} of hf:{name}"
        whole = decode_cell(cell, where, None if prepare else size)
        images.append(prepare(whole) if prepare else whole)
        numbers.append(number)
        ids.append(f"row {row}")
    return _gathered(images, numbers, ids, labels, f"hf:{name}")


def _chosen_rows(
    kinds: Sequence[int | None], names: Sequence[str], part: Part, labels: Sequence[str],
    source: str, per_class: int, has_parts: bool,
) -> list[tuple[int, int]]:  # fmt: skip
    """(row, class) of the images to take, in the set's order; rows without a label are left out."""
    used = {kind for kind in kinds if kind is not None and kind >= 0}
    if [_short(name) for name in names] == [_short(label) for label in labels]:
        matched = {kind: kind for kind in used}
    else:
        known = match_labels([names[kind] for kind in sorted(used)], labels, source)
        matched = {kind: known[names[kind]] for kind in used if names[kind] in known}
    chosen, seen, taken = [], Counter[int](), Counter[int]()
    for row, kind in enumerate(kinds):
        number = None if kind is None else matched.get(kind)
        if number is None or taken[number] >= per_class:
            continue
        seen[number] += 1
        if has_parts or ((seen[number] - 1) % HELD_OUT == 0) == (part == "test"):
            chosen.append((row, number))
            taken[number] += 1
    return chosen
