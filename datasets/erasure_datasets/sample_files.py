"""Files that name single training images, perhaps with the true label of each."""

from dataclasses import dataclass
from pathlib import Path

from erasure_datasets.errors import DataError
from erasure_datasets.tables import read_column, read_text

NAMES = ("sample", "index", "id", "path", "file_name")
TRUE_LABELS = ("label", "true_label")
TABLES = (".csv", ".tsv", ".jsonl")


@dataclass(frozen=True)
class SampleList:
    """Images by id, row number, place or path, and the true label of each, or none at all."""

    names: tuple[str, ...]
    labels: tuple[str, ...] = ()


def read_samples(file: Path) -> SampleList:
    """The images of a file: a name in each line that is not empty, or a table.

    A .csv, .tsv or .jsonl has a column `sample` (or index, id, path, file_name) and, perhaps,
    `label` (or true_label). DataError for a file that cannot be read or names none, for an image
    that is named twice, and for a label that is missing beside others.
    """
    found = _of_table(file) if file.suffix.lower() in TABLES else _of_lines(file)
    seen = set[str]()
    for name in found.names:
        if name in seen:
            raise DataError(f"samples must name each image once; {file} has {name!r} twice.")
        seen.add(name)
    return found


def _of_lines(file: Path) -> SampleList:
    lines = [line.strip() for line in read_text(file).splitlines()]
    names = tuple(line for line in lines if line)
    if not names:
        raise DataError(f"samples must name at least one image; {file} has none.")
    return SampleList(names)


def _of_table(file: Path) -> SampleList:
    column = read_column(file, NAMES, beside=TRUE_LABELS)
    word = next((word for word in TRUE_LABELS if word in column.others), None)
    if word is None:
        return SampleList(tuple(column.texts))
    labels = column.others[word]
    for line, label in zip(column.lines, labels, strict=True):
        if not label:
            raise DataError(f"{file} must have a {word!r} in every row; line {line} has none.")
    return SampleList(tuple(column.texts), tuple(labels))
