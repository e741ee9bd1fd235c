"""Tables of prompts and captions, as users and the field's benchmarks write them."""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shortened

from erasure_datasets.errors import DataError

SEPARATORS = ",;\t"
PROMPT_NAMES = ("prompt", "text", "caption")


class TableError(DataError):
    """A table that cannot be read, or lacks what was asked of it."""


@dataclass(frozen=True)
class Column:
    """A table's texts of one column, with the number of the line of each.

    `others` and `several` have the columns beside it that were asked for, as far as they are there,
    `unread` the names of the rest. Names of columns are in lower case with underscores. None of the
    texts is empty, and there is at least one; a text of `others` may be, and a tuple of `several`.
    """

    texts: list[str]
    lines: list[int]
    others: dict[str, list[str]]
    several: dict[str, list[tuple[str, ...]]]
    unread: list[str]


def read_column(
    file: Path, names: Sequence[str] = PROMPT_NAMES, *, beside: Sequence[str] = (),
    several: Sequence[str] = (),
) -> Column:  # fmt: skip
    """The first of these columns that a .csv, .tsv or .jsonl has, and those `beside` it.

    A cell of a column in `several` holds texts with | between them, or a .jsonl's list of texts.
    TableError names the file, and the line and column of a cell that holds something else.
    """
    columns, rows = _read_objects(file) if file.suffix.lower() == ".jsonl" else _read(file)
    index = _find(file, columns, names)
    texts = [_text(file, number, row, index, columns) for number, row in rows]
    known = {
        name: _find(file, columns, [name])
        for name in dict.fromkeys(map(_plain, columns))
        if name in (*beside, *several)
    }
    return Column(
        texts,
        [number for number, _ in rows],
        {name: [_cell(file, *row, known[name], columns) for row in rows]
         for name in beside if name in known},
        {name: [_parts(file, *row, known[name], columns) for row in rows]
         for name in several if name in known},
        [name for place, name in enumerate(map(_plain, columns))
         if place != index and name not in known],
    )  # fmt: skip


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


Rows = list[tuple[int, list[object]]]  # with the number of the line each ends in


def _read(file: Path) -> tuple[list[str], Rows]:
    """The header and what follows it, without lines that are blank."""
    text = read_text(file)
    first = re.split("[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    separator = max(SEPARATORS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        columns = next((row for row in reader if any(cell.strip() for cell in row)), [])
        rows: Rows = [
            (reader.line_num, [*row]) for row in reader if any(cell.strip() for cell in row)
        ]
    except csv.Error as error:
        raise TableError(f"{file} is no CSV, in line {reader.line_num}: {error}.") from error
    if not rows:
        raise TableError(f"{file} must have a line of column names and at least one row.")
    return [column.strip() for column in columns], rows


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
    return columns, [(number, [*map(record.get, columns)]) for number, record in records]


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


def _text(file: Path, number: int, row: list[object], index: int, columns: list[str]) -> str:
    if len(row) > len(columns):
        raise TableError(
            f"{file} has {len(row)} cells in line {number} and {len(columns)} columns; a text with "
            "the separator in it must stand in quotes."
        )
    text = _cell(file, number, row, index, columns)
    if not text:
        raise TableError(
            f"{file} must have a {columns[index]!r} in every row; line {number} has none."
        )
    return text


def _cell(file: Path, number: int, row: list[object], index: int, columns: list[str]) -> str:
    """A cell as a CSV would hold it; empty where it is null, or a number in place of a prompt."""
    cell, column = row[index] if index < len(row) else None, columns[index]
    if isinstance(cell, str):
        return cell.strip()
    if cell is None:
        return ""
    if not isinstance(cell, int | float):
        raise TableError(
            f"{file} must have a text or a number as {column!r}; line {number} has "
            f"{shortened(cell)}."
        )
    return "" if _plain(column) in PROMPT_NAMES else json.dumps(cell)


def _parts(
    file: Path, number: int, row: list[object], index: int, columns: list[str]
) -> tuple[str, ...]:
    cell = row[index] if index < len(row) else None
    if not isinstance(cell, list | dict):
        parts = _cell(file, number, row, index, columns).split("|")
        return tuple(part.strip() for part in parts if part.strip())
    if isinstance(cell, dict) or not all(isinstance(p, str) and p.strip() for p in cell):
        raise TableError(
            f"{file} must have a text or a list of texts as {columns[index]!r}; line {number} has "
            f"{shortened(cell)}."
        )
    return tuple(part.strip() for part in cell)
