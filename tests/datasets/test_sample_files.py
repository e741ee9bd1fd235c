"""Files that name single images: lines or a table, with true labels or without."""

from pathlib import Path

import pytest

from erasure_datasets.errors import DataError
from erasure_datasets.sample_files import read_samples


@pytest.mark.parametrize(
    ("name", "text", "names", "labels"),
    [
        ("a.txt", "\ufeff3\n\n red/1.png \n", ("3", "red/1.png"), ()),
        ("a.csv", "index\n3\n7\n", ("3", "7"), ()),
        ("a.csv", "Label;path\ncat;a/1.png\ndog;b,2.png\n", ("a/1.png", "b,2.png"), ("cat", "dog")),
        ("a.jsonl", '{"sample": 3, "true_label": "cat"}\n', ("3",), ("cat",)),
    ],
)
def test_files(name: str, text: str, names: tuple, labels: tuple, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = read_samples(tmp_path / name)
    assert (found.names, found.labels) == (names, labels)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "\n \n", "must name at least one image"),
        ("a.txt", "3\n7\n3\n", "has '3' twice"),
        ("a.csv", "3\n7\n", "must have a 'sample' column; has 3"),
        ("a.csv", "sample,label\n3,cat\n7,\n", "'label' in every row; line 3 has none"),
        ("a.csv", "sample\n", "at least one row"),
    ],
)
def test_files_that_say_too_little(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_samples(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read"):
        read_samples(tmp_path / "none.txt")
