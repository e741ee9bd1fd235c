"""Files of concepts to erase in one request: `erasure erase METHOD --concepts-file FILE`.

A .txt with a name a line; or a .csv, .tsv or .jsonl with a column concept (or name) and, as far as
wanted, kind, anchor and templates, several of these with | between them.
"""

from dataclasses import dataclass
from pathlib import Path

from erasure_datasets.concept import USER_KINDS
from erasure_datasets.tables import TableError, read_column, read_lines

NAMES = ("concept", "name")
BESIDE = ("kind", "anchor", "templates")
SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl")


@dataclass(frozen=True)
class Asked:
    """A concept as a user asks for it; what is None or empty is not said."""

    name: str
    kind: str | None = None
    anchor: str | None = None
    templates: tuple[str, ...] = ()


def read_concepts(file: Path) -> list[Asked]:
    """Every concept of a file, in order, at least one; TableError names the file and what is wrong.

    That is another suffix or column, a row without a name, or a kind that is none.
    """
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise TableError(f"{file} must be a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file.")
    if suffix == ".txt":
        names = read_lines(file)
        if not names:
            raise TableError(f"{file} must name at least one concept.")
        return [Asked(name) for name in names]
    column = read_column(file, NAMES)
    strange = next((name for name in column.others if name not in BESIDE), None)
    if strange is not None:
        raise TableError(
            f"{file} must have no columns but concept, {', '.join(BESIDE)}; has {strange!r}."
        )
    blank = [""] * len(column.texts)
    kinds, anchors, templates = (column.others.get(name, blank) for name in BESIDE)
    wrong = next((i for i, kind in enumerate(kinds) if kind and kind not in USER_KINDS), None)
    if wrong is not None:
        raise TableError(
            f"{file} must have one of {', '.join(USER_KINDS)} as kind; line "
            f"{column.lines[wrong]} has {kinds[wrong]!r}."
        )
    return [
        Asked(name, kind or None, anchor or None, _parts(template))
        for name, kind, anchor, template in zip(
            column.texts, kinds, anchors, templates, strict=True
        )
    ]


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split("|") if part.strip())
