"""Labelled images from folders and Hugging Face data sets: which class an image is of."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from erasure_datasets import classes
from erasure_datasets.canvas import OBJECTS, SPLITS
from erasure_datasets.classes import class_names, load_classes, match_labels
from erasure_datasets.errors import DataError, DataWarning

LABELS = ("red", "green", "blue")


def hub_folder(folder: Path, *, splits: tuple[str, ...], names: list[str] | None = None) -> Path:
    """Parquet files as the Hub keeps them: grey images whose value is their number."""
    folder.mkdir(parents=True)
    names = names or ["Green", "Red", "purple"]  # another order and case than the model's
    rows = [number % len(names) for number in range(15)]
    pictures = [
        Image.fromarray(np.full((20, 30, 3), 10 * number, np.uint8)) for number in range(15)
    ]
    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=names)}
    )
    for split in splits:
        made = datasets.Dataset.from_dict({"picture": pictures, "kind": rows}, features=features)
        made.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    place = hub_folder(tmp_path / "set", splits=("train", "test"))
    found = load_classes(f"hf:{place}", "train", LABELS[:2], size=16, per_class=3)
    assert found.images.shape == (6, 3, 16, 16)
    # Green is 0, 3, 6, ... and Red 1, 4, 7, ...; purple is no class of the model
    by_class = {label: [] for label in (0, 1)}
    for image, label in zip(found.images, found.labels.tolist(), strict=True):
        by_class[label].append(int(image.float().mean()))
    assert by_class == {0: [10, 40, 70], 1: [0, 30, 60]}


def test_no_render_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[tuple[int, int, int]] = []

    def drawn(asked: list[tuple[int, int, int]]) -> np.ndarray:
        places.extend(asked)
        return np.zeros((len(asked), 64, 64, 3), np.uint8)

    monkeypatch.setattr(classes, "rendered", drawn)
    monkeypatch.setitem(SPLITS, "test", range(1100, 1101))  # one of each object in each style
    found = load_classes("canvas", "test", OBJECTS, size=64, per_class=20)
    assert len(found) == len(set(places)) == len(OBJECTS) * 16


def test_a_folder_of_parquet_needs_no_word_before_it(tmp_path: Path) -> None:
    place = hub_folder(tmp_path / "set", splits=("train", "test"))
    for each in (3, 0):
        one, other = (
            load_classes(source, "train", LABELS[:2], size=16, per_class=each)
            for source in (str(place), f"hf:{place}")
        )
        assert torch.equal(one.images, other.images)
        assert one.ids == other.ids
    assert len(one) == 10
    assert class_names(str(place)) == ("Green", "Red", "purple")
    (place / "red").mkdir()
    Image.new("RGB", (8, 8)).save(place / "red" / "0.png")
    with pytest.raises(DataError, match="parquet files and the image folder red; which"):
        load_classes(str(place), "train", LABELS, size=16, per_class=1)


def test_every_fifth_is_held_out_where_there_is_no_test_part(tmp_path: Path) -> None:
    place = hub_folder(tmp_path / "set", splits=("train",))
    parts = [
        load_classes(f"hf:{place}", part, LABELS[:2], size=16, per_class=9)
        for part in ("train", "test")
    ]
    values = [{int(image.float().mean()) for image in part.images} for part in parts]
    assert values[1] == {0, 10}
    assert not values[0] & values[1]
    assert len(parts[0]) == 8


def test_a_set_without_the_classes_is_refused(tmp_path: Path) -> None:
    place = hub_folder(tmp_path / "set", splits=("train",), names=["purple", "pink"])
    with pytest.raises(
        ValueError, match=r"no image of a known class \(red, green, blue\); has purple, pink"
    ):
        load_classes(f"hf:{place}", "train", LABELS, size=16, per_class=3)


def test_hub_classes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    place = hub_folder(tmp_path / "set", splits=("train",))
    with pytest.raises(DataError, match="purple are no classes, and there are no images of blue"):
        load_classes(f"hf:{place}", "train", LABELS, size=16, per_class=3)
    with pytest.raises(DataError, match="cannot be opened as a data set"):
        load_classes(f"hf:{tmp_path / 'none'}", "train", LABELS, size=16, per_class=3)


def test_unlabelled_rows_and_broken_cells(tmp_path: Path) -> None:
    """A hidden label is -1, which is not the last class; an image is read only if it is taken."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(LABELS))}
    )
    picture = Image.new("RGB", (16, 16))
    made = datasets.Dataset.from_dict(
        {"image": [picture] * 3 + [{"bytes": b"no picture", "path": None}] * 2,
         "label": [0, -1, 1, None, 2]},
        features=features,
    )  # fmt: skip
    for split in ("train", "test"):
        made.to_parquet(str(tmp_path / f"{split}-00000-of-00001.parquet"))
    with pytest.raises(DataError, match=r"row 4 of hf:.* cannot be read as a picture"):
        load_classes(f"hf:{tmp_path}", "test", LABELS, size=16, per_class=3)
    with pytest.raises(DataError, match="holds no image of a known class"):
        load_classes(f"hf:{tmp_path}", "test", ("pink",), size=16, per_class=3)


def class_folder(place: Path, *names: str, count: int = 5) -> Path:
    for number, name in enumerate(names):
        (place / name).mkdir(parents=True)
        for index in range(count):
            colour = (20 * number, index, 0)
            Image.new("RGB", (16, 16), colour).save(place / name / f"{index}.png")
    return place


def loaded(place: Path, labels: tuple[str, ...]) -> dict[int, int]:
    """Which folder, by its colour, gave which class its images."""
    found = load_classes(str(place), "train", labels, size=16, per_class=2)
    pairs = zip(found.labels.tolist(), found.images, strict=True)
    return {label: int(image[0, 0, 0]) // 20 for label, image in pairs}


def test_folders_are_matched_as_class_names_are(tmp_path: Path) -> None:
    labels = ("sea lion", "Van Gogh", "tench, Tinca tinca")
    place = class_folder(tmp_path / "a", "van_gogh", "Sea-Lion", "tench")
    (place / ".hidden").mkdir()
    (place / "notes").mkdir()  # holds no image
    assert loaded(place, labels) == {0: 1, 1: 0, 2: 2}


def test_folders_of_several_or_of_no_class(tmp_path: Path) -> None:
    two = class_folder(tmp_path / "two", "sea_lion", "sea lion", "cat")
    with pytest.raises(DataError, match="'sea lion' and 'sea_lion' are 'sea lion'"):
        loaded(two, ("sea lion", "cat"))
    crane = class_folder(tmp_path / "crane", "crane", "cat")
    for labels in (("crane", "crane", "cat"), ("crane #0", "crane #1", "cat")):
        with pytest.raises(DataError, match=r"'crane' .* is the name of 2 classes \(#0, #1\)"):
            loaded(crane, labels)
    wrong = class_folder(tmp_path / "wrong", "cat", "automobile")
    with pytest.raises(DataError, match="automobile are no classes, and there are no images of ca"):
        loaded(wrong, ("cat", "car"))
    assert loaded(wrong, ("cat",)) == {0: 0}
    with pytest.warns(UserWarning, match="has no images of bird"):
        assert loaded(wrong, ("cat", "automobile", "bird")) == {0: 0, 1: 1}


def test_folders_by_number_and_by_wordnet_id(tmp_path: Path) -> None:
    labels = ("crane", "crane", "cat")
    assert loaded(class_folder(tmp_path / "n", "00", "1", "2"), labels) == {0: 0, 1: 1, 2: 2}
    assert loaded(class_folder(tmp_path / "h", "#0", "#1", "cat"), labels) == {0: 0, 1: 1, 2: 2}
    assert loaded(class_folder(tmp_path / "d", "1", "0"), ("0", "1")) == {0: 1, 1: 0}
    many = tuple(f"label {number}" for number in range(1000))
    assert match_labels(["n02012849", "n03126707"], many, "x") == {
        "n02012849": 134, "n03126707": 517,
    }  # fmt: skip
    with pytest.raises(DataError, match="n02012849"):
        match_labels(["n02012849"], many[:100], "x")


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    place = class_folder(tmp_path / "a", "cat")
    (place / "cat" / "._0.png").write_bytes(b"Mac OS X")
    assert loaded(place, ("cat",)) == {0: 0}
    (place / "cat" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"1\.png is empty"):
        loaded(place, ("cat",))


def test_what_is_passed_over_in_class_folders_is_said(tmp_path: Path) -> None:
    for name in LABELS:
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "red" / "2.heic").write_text("")
    (tmp_path / "loose.png").write_text("")
    with pytest.warns(DataWarning, match=r"holds what is not read: loose\.png and 1 more"):
        load_classes(str(tmp_path), "train", LABELS, size=8, per_class=1)
