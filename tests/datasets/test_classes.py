"""Labelled images from a Hugging Face data set: its own columns, splits, and what is refused."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from erasure_datasets.classes import load_classes

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
    found = load_classes(f"hf:{place}", "train", LABELS, size=16, per_class=3)
    assert found.images.shape == (6, 3, 16, 16)
    # Green is 0, 3, 6, ... and Red 1, 4, 7, ...; purple is no class of the model
    by_class = {label: [] for label in (0, 1)}
    for image, label in zip(found.images, found.labels.tolist(), strict=True):
        by_class[label].append(int(image.float().mean()))
    assert by_class == {0: [10, 40, 70], 1: [0, 30, 60]}


def test_every_fifth_is_held_out_where_there_is_no_test_part(tmp_path: Path) -> None:
    place = hub_folder(tmp_path / "set", splits=("train",))
    parts = [
        load_classes(f"hf:{place}", part, LABELS, size=16, per_class=9)
        for part in ("train", "test")
    ]
    values = [{int(image.float().mean()) for image in part.images} for part in parts]
    assert values[1] == {0, 10}
    assert not values[0] & values[1]
    assert len(parts[0]) == 8


def test_a_set_without_the_classes_is_refused(tmp_path: Path) -> None:
    place = hub_folder(tmp_path / "set", splits=("train",), names=["purple", "pink"])
    with pytest.raises(ValueError, match="no image of the model's classes"):
        load_classes(f"hf:{place}", "train", LABELS, size=16, per_class=3)
