"""Images with their classes: in memory where they fit, else read when they are asked for."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from erasure_datasets.errors import DataError

HELD_BYTES = 2**30  # of pictures of one part, which are kept in memory
AT_ONCE = 256  # pictures that are read in one go into memory
Read = Callable[[int], UInt8[Tensor, "3 s s"]]


class Pictures:
    """Pictures of one size, read when they are asked for: what a tensor (n, 3, s, s) would give.

    `workers` threads read at once (0: one per core). Reading raises what `read` raises.
    """

    def __init__(self, read: Read, rows: Sequence[int], size: int, *, workers: int = 0) -> None:
        self._read, self._rows, self._size, self._workers = read, tuple(rows), size, workers
        self._asked: tuple[tuple[int, ...], list[Future[Tensor]]] = (), []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), 3, self._size, self._size))

    @property
    def nbytes(self) -> int:
        """Bytes of all of them in memory."""
        return self.shape.numel()

    def __getitem__(self, places: Int[Tensor, " b"] | slice) -> UInt8[Tensor, "b 3 s s"]:
        rows = self._at(places)
        asked, parts = self._asked
        if rows != asked:
            parts = self._begin(rows)
        self._asked = (), []
        found = [part.result() for part in parts]
        side = (3, self._size, self._size)
        if not found:
            return torch.empty((0, *side), dtype=torch.uint8)
        # decoded pictures lie channels last, in which networks round otherwise
        return torch.stack(found).contiguous()

    def one(self, place: int) -> UInt8[Tensor, "3 s s"]:
        """A single picture, read by the caller's own thread."""
        return self._read(self._rows[place])

    def ask(self, places: Int[Tensor, " b"]) -> None:
        """Begin to read these in the background, for the next that asks for exactly them."""
        rows = self._at(places)
        self._asked = rows, self._begin(rows)

    def at(self, places: Sequence[int]) -> "Pictures":
        """Only those at these places, in their order; none of them is read."""
        rows = [self._rows[place] for place in places]
        return Pictures(self._read, rows, self._size, workers=self._workers)

    def held(self) -> UInt8[Tensor, "n 3 s s"]:
        """All of them, in memory."""
        whole = torch.empty(self.shape, dtype=torch.uint8)
        for first in range(0, len(self), AT_ONCE):
            whole[first : first + AT_ONCE] = self[first : first + AT_ONCE]
        return whole

    def split(self, size: int) -> list["Pictures"]:
        """Parts of this length, the last one shorter, as of a tensor; none of them is read."""
        firsts = [*range(0, len(self), size), len(self)]
        return [self.at(range(first, end)) for first, end in pairwise(firsts)]

    def _at(self, places: Int[Tensor, " b"] | slice) -> tuple[int, ...]:
        if isinstance(places, slice):
            return self._rows[places]
        return tuple(self._rows[place] for place in places.tolist())

    def _begin(self, rows: Sequence[int]) -> list[Future[Tensor]]:
        pool = _pool(self._workers)
        return [pool.submit(self._read, row) for row in rows]


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    """The threads that all pictures of a process share."""
    return ThreadPoolExecutor(workers or (os.cpu_count() or 1), thread_name_prefix="pictures")


Images = UInt8[Tensor, "n 3 h w"] | Pictures


def joined(parts: Sequence[Images]) -> Images:
    """One after another; in memory only if all are."""
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if len(tensors) == len(parts):
        return torch.cat(tensors)
    ends = torch.tensor([len(part) for part in parts]).cumsum(0)

    def read(row: int) -> Tensor:
        number = int(torch.searchsorted(ends, row, right=True))
        place = row - (int(ends[number - 1]) if number else 0)
        part = parts[number]
        return part[place] if isinstance(part, Tensor) else part.one(place)

    return Pictures(read, range(int(ends[-1])), parts[0].shape[-1])


@dataclass(frozen=True)
class Labelled:
    """Images in [0, 255] with a class index and an id each.

    The id is the file's place in an image folder, "row 3" of a data set, "cat 3" of the renders.
    `images` is a tensor, or `Pictures` where they are too many for memory.
    """

    images: Images
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
        pictures = self.images
        images = pictures[chosen] if isinstance(pictures, Tensor) else pictures.at(places)
        return Labelled(images, self.labels[chosen], ids)

    def and_then(self, other: "Labelled") -> "Labelled":
        """These, followed by others."""
        labels = torch.cat([self.labels, other.labels])
        return Labelled(joined([self.images, other.images]), labels, (*self.ids, *other.ids))

    def relabelled(self, labels: Int[Tensor, " n"]) -> "Labelled":
        """The same images with other labels."""
        return replace(self, labels=labels)

    def find(self, samples: Sequence[str]) -> list[int]:
        """The place of each: by its id, its row's number in a data set, or its place, from 0.

        DataError for one that is not here or is asked for twice.
        """
        known, found = {own: place for place, own in enumerate(self.ids)}, dict[int, str]()
        is_of_rows = all(own.startswith("row ") for own in self.ids)
        for sample in samples:
            is_number = sample.isascii() and sample.isdigit()
            place = known.get(f"row {int(sample)}" if is_number and is_of_rows else sample)
            if place is None and is_number and not is_of_rows and int(sample) < len(self):
                place = int(sample)
            if place is None:
                raise DataError(self._unknown(sample, is_of_rows=is_of_rows))
            if place in found:
                raise DataError(f"samples {found[place]!r} and {sample!r} are the same image.")
            found[place] = sample
        return list(found)

    def _unknown(self, sample: str, *, is_of_rows: bool) -> str:
        if is_of_rows:
            return (
                f"samples must be rows that training images come from ({listed(self.ids)}); got "
                f"{sample!r}. For every row of the set say images 0."
            )
        return (
            f"samples must be ids of training images ({listed(self.ids)}) or places from "
            f"0 to {len(self) - 1}; got {sample!r}."
        )

    def split(self, samples: Sequence[str]) -> tuple["Labelled", "Labelled"]:
        """(these images, all others), as `find` finds them."""
        found = self.find(samples)
        gone = {*found}
        return self.at(found), self.at([place for place in range(len(self)) if place not in gone])


def listed(names: Sequence[str]) -> str:
    """The first five names, and how many there are."""
    return ", ".join(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "") or "none"


def gathered(read: Read, labels: Sequence[int], ids: Sequence[str], size: int, *,
             workers: int = 0) -> Labelled:  # fmt: skip
    """Images by their reader: in memory up to `HELD_BYTES`, else read when they are asked for."""
    pictures = Pictures(read, range(len(ids)), size, workers=workers)
    is_held = pictures.nbytes <= HELD_BYTES
    images = pictures.held() if is_held else pictures
    return Labelled(images, torch.tensor(labels, dtype=torch.long), tuple(ids))
