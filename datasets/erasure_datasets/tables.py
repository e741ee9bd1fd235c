"""Tables of prompts and captions, as users and the field's benchmarks write them."""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from erasure_datasets.errors import DataError

SEPARATORS = ",;\t"
PROMPT_NAMES = ("prompt", "text", "caption")


class TableError(DataError):
    """A table that cannot be read, or lacks what was asked of it."""


@dataclass(frozen=True)
class Column:
    """A table's texts of one column, with the number of the line of each; `others` has the rest.

    Names of columns are in lower case with underscores. None of the texts is empty, and there is at
    least one.
    """

    texts: list[str]
    lines: list[int]
    others: dict[str, list[str]]


def read_column(file: Path, names: Sequence[str] = PROMPT_NAMES) -> Column:
    """The first of these columns that a .csv, .tsv or .jsonl has; TableError names the file."""
    columns, rows = _read_objects(file) if file.suffix.lower() == ".jsonl" else _read(file)
    index = _find(file, columns, names)
    texts = [_text(file, number, row, index, columns) for number, row in rows]
    others = {
        name: [row[place].strip() if place < len(row) else "" for _, row in rows]
        for place, name in enumerate(map(_plain, columns))
        if place != index
    }
    return Column(texts, [number for number, _ in rows], others)


def read_captions(file: Path) -> dict[str, str]:
    """Captions by file name, of a .csv, .tsv or .jsonl, in the layout of datasets' image folders.

    TableError for a name that is there twice, and as in `read_column`.
    """
    columns, rows = _read_objects(file) if file.suffix.lower() == ".jsonl" else _read(file)
    name = _find(file, columns, ("file_name",))
    caption = _find(file, columns, ("text", "prompt", "caption"))
    found: dict[str, str] = {}
    for number, row in rows:
        key = _text(file, number, row, name, columns)
        if key in found:
            raise TableError(f"{file} must have each file_name once; {key} is there twice.")
        found[key] = _text(file, number, row, caption, columns)
    return found


Rows = list[tuple[int, list[str]]]  # with the number of the line each ends in


def _read(file: Path) -> tuple[list[str], Rows]:
    """The header and what follows it, without lines that are blank."""
    text = read_text(file)
    first = re.split("[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    separator = max(SEPARATORS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise TableError(f"{file} is no CSV, in line {reader.line_num}: {error}.") from error
    if len(rows) < 2:
        raise TableError(f"{file} must have a line of column names and at least one row.")
    return [column.strip() for column in rows[0][1]], rows[1:]


def _read_objects(file: Path) -> tuple[list[str], Rows]:
    """As `_read`, of one JSON object a line."""
    records = []
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TableError(f"{file} is no JSON in line {number}: {error}.") from error
        if not isinstance(record, dict):
            raise TableError(f"{file} must hold one object a line; line {number} is none.")
        records.append((number, record))
    if not records:
        raise TableError(f"{file} must have at least one row.")
    columns = list(dict.fromkeys(key for _, record in records for key in record))
    cells = [[record.get(column) for column in columns] for _, record in records]
    texts = [
        [_as_text(name, cell) for name, cell in zip(columns, row, strict=True)] for row in cells
    ]
    return columns, [(number, row) for (number, _), row in zip(records, texts, strict=True)]


def _as_text(column: str, cell: object) -> str:
    """A cell of a JSON object as a CSV would hold it: a text, or a number that is no prompt."""
    is_number = isinstance(cell, int | float) and not isinstance(cell, bool)
    is_prompt = _plain(column) in PROMPT_NAMES
    return str(cell) if isinstance(cell, str) or (is_number and not is_prompt) else ""


def read_text(file: Path) -> str:
    """A file's text without a byte-order mark; TableError unless it is one, in UTF-8."""
    if file.is_dir():
        raise TableError(f"{file} must be a file; it is a folder.")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TableError(f"{file} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise TableError(f"{file} must be in UTF-8; byte {error.start} is not.") from error
    if "\0" in text:
        raise TableError(f"{file} must be a text; it holds NUL bytes.")
    return text


def read_lines(file: Path) -> list[str]:
    """The lines of a text that are not blank, without what surrounds them; errors as above."""
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]


def _find(file: Path, columns: list[str], names: Sequence[str]) -> int:
    plain = [_plain(column) for column in columns]
    for name in names:
        if plain.count(name) > 1:
            raise TableError(f"{file} must have one column {name!r}; has {', '.join(columns)}.")
        if name in plain:
            return plain.index(name)
    raise TableError(f"{file} must have a {names[0]!r} column; has {', '.join(columns)}.")


def _plain(column: str) -> str:
    return column.casefold().replace(" ", "_")


def _text(file: Path, number: int, row: list[str], index: int, columns: list[str]) -> str:
    if len(row) > len(columns):
        raise TableError(
            f"{file} has {len(row)} cells in line {number} and {len(columns)} columns; a text with "
            "the separator in it must stand in quotes."
        )
    text = row[index].strip() if index < len(row) else ""
    if not text:
        raise TableError(
            f"{file} must have a {columns[index]!r} in every row; line {number} has none."
        )
    return text
