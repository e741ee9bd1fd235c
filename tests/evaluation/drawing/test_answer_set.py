"""Others' images by a protocol's names: what is passed over is told."""

import warnings
from pathlib import Path

import pytest
from PIL import Image

from erasure_datasets.errors import DataWarning
from evaluation.drawing.answer_set import find_answers

NAMES = ["a_1.png", "b_1.png", "a_2.png", "b_2.png"]


def test_what_is_not_judged_is_told(tmp_path: Path) -> None:
    for name in NAMES:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "drawn.json").write_text("{}")  # `evaluate`'s own note
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(find_answers(tmp_path, NAMES, NAMES, size=8)) == 4
    with pytest.warns(DataWarning, match="2 images that are not judged, beside the 2 .* a_2.png"):
        find_answers(tmp_path, NAMES[:2], NAMES, size=8)
    (tmp_path / "more").mkdir()
    (tmp_path / "a_1.avif").write_bytes(b"x")
    with pytest.warns(DataWarning, match=r"not read: a_1\.avif and 1 more"):
        find_answers(tmp_path, NAMES, NAMES, size=8)
