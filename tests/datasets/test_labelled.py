"""Images that do not fit into memory: the same as those that do, and read when asked for."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import erasure_datasets.labelled as labelled
from erasure_datasets.classes import load_classes
from erasure_datasets.errors import DataError
from erasure_datasets.labelled import Labelled, Pictures

LABELS = ("red", "green")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(LABELS):
        (tmp_path / name).mkdir()
        for index in range(6):
            Image.new("RGB", (9, 8), (40 * index, 100 * number, 7)).save(
                tmp_path / name / f"{index}.png"
            )
    return tmp_path


@pytest.fixture
def two(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Labelled, Labelled]:
    """The same training images in memory, and read when they are asked for."""

    def loaded() -> Labelled:
        return load_classes(str(folder), "train", LABELS, size=8, per_class=0)

    held = loaded()
    monkeypatch.setattr(labelled, "HELD_BYTES", 100)
    return held, loaded()


def test_read_when_asked_for_they_are_the_same(two: tuple[Labelled, Labelled]) -> None:
    held, read = two
    assert isinstance(held.images, torch.Tensor)
    assert isinstance(read.images, Pictures)
    assert (read.images.shape, read.ids) == (held.images.shape, held.ids)
    places = torch.tensor([7, 0, 3])
    read.images.ask(places)  # in the background
    for chosen in (places, slice(2, 5), torch.tensor([1]), slice(0, 0)):
        assert torch.equal(read.images[chosen], held.images[chosen])
    assert torch.equal(read.images.held(), held.images)
    for one, other in zip(read.images.split(4), held.images.split(4), strict=True):
        assert torch.equal(one.held(), other)
    for a, b in ((read.of([1], 2), held.of([1], 2)), (read.at([5, 1]), held.at([5, 1]))):
        assert torch.equal(a.images.held(), b.images)
        assert a.ids == b.ids
    both = held.at([0, 1]).and_then(read.at([4, 7]))
    wanted = held.at([0, 1, 4, 7])
    assert torch.equal(both.images[torch.arange(4)], wanted.images)
    assert (both.ids, both.labels.tolist()) == (wanted.ids, wanted.labels.tolist())


def test_nothing_is_read_before_it_is_asked_for() -> None:
    seen: list[int] = []

    def read(row: int) -> torch.Tensor:
        seen.append(row)
        return torch.full((3, 4, 4), row % 256, dtype=torch.uint8)

    pictures = Pictures(read, range(100_000), 4, workers=2)
    part = pictures.at([5, 99_999]).split(1)[1]
    assert seen == []
    assert int(part[torch.tensor([0])].max()) == 99_999 % 256
    assert seen == [99_999]


def test_a_picture_that_breaks_later_is_named(folder: Path, two: tuple) -> None:
    _, read = two
    (folder / "red" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1\.png cannot be read"):
        read.images.held()


def test_rows_of_a_set_are_found_by_their_numbers() -> None:
    part = Labelled(torch.zeros(3, 3, 2, 2).byte(), torch.zeros(3).long(),
                    ("row 4", "row 17", "row 2"))  # fmt: skip
    assert part.find(["17", "row 2"]) == [1, 2]
    with pytest.raises(DataError, match=r"rows that training images come from .*got '0'"):
        part.find(["0"])
    with pytest.raises(DataError, match="'4' and 'row 4' are the same image"):
        part.find(["4", "row 4"])
