"""Files of concepts to erase in one request: `erasure erase METHOD --concepts-file FILE`.

A .txt with a name a line; or a .csv, .tsv or .jsonl with a column concept (or name) and, as far as
wanted, kind, anchor and templates, several of these with | between them or, in a .jsonl, as a list.
"""

from dataclasses import dataclass
from pathlib import Path

from erasure_datasets.concept import USER_KINDS
from erasure_datasets.tables import TableError, read_column, read_lines

NAMES = ("concept", "name")
BESIDE, SEVERAL = ("kind", "anchor"), ("templates",)
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

    That is another suffix or column, a row without a name, a kind that is none, or a cell that
    holds no text.
    """
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise TableError(f"{file} must be a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file.")
    if suffix == ".txt":
        names = read_lines(file)
        if not names:
            raise TableError(f"{file} must name at least one concept.")
        return [Asked(name) for name in names]
    column = read_column(file, NAMES, beside=BESIDE, several=SEVERAL)
    if column.unread:
        known = ", ".join(("concept", *BESIDE, *SEVERAL))
        raise TableError(f"{file} must have no columns but {known}; has {column.unread[0]!r}.")
    count = len(column.texts)
    kinds, anchors = (column.others.get(name, [""] * count) for name in BESIDE)
    (templates,) = (column.several.get(name, [()] * count) for name in SEVERAL)
    wrong = next((i for i, kind in enumerate(kinds) if kind and kind not in USER_KINDS), None)
    if wrong is not None:
        raise TableError(
            f"{file} must have one of {', '.join(USER_KINDS)} as kind; line "
            f"{column.lines[wrong]} has {kinds[wrong]!r}."
        )
    return [
        Asked(name, kind or None, anchor or None, own)
        for name, kind, anchor, own in zip(column.texts, kinds, anchors, templates, strict=True)
    ]
