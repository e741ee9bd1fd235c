"""Captions of a folder's pictures: in a table, or in a text beside each; and what they name."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten

from erasure.errors import SettingError
from erasure_datasets.concept import Concept, mentions
from erasure_datasets.errors import DataWarning
from erasure_datasets.images import unread, warn_of_unread
from erasure_datasets.tables import read_captions

TABLES = (".csv", ".tsv", ".jsonl")  # of metadata
BESIDE = (".txt", ".caption")


def find_captions(folder: Path, name: str, files: list[Path]) -> dict[Path, str]:
    """Every caption of the pictures in folder/name, or none at all.

    They stand in metadata.csv, .tsv or .jsonl (file_name, text), in this folder or the one above,
    or in a .txt or .caption beside each picture; case does not count. SettingError if there are
    several of these, or if a picture has no caption or a caption no picture. A warning names what
    is not read.
    """
    own = folder / name
    tables = [file for place in (own, folder) for file in _tables(place)]
    texts = [file for file in unread(own, files) if file.suffix.lower() in BESIDE]
    beside = [(file, text) for file in files for text in texts if text.stem == file.stem]
    stems = {file.stem for file in files}
    strays = [text.name for text in texts if text.stem not in stems]
    twice = len(beside) > len({file for file, _ in beside})
    if len(tables) + bool(beside) > 1 or twice:
        several = [*map(str, tables), *(str(text) for _, text in beside[: 1 + twice])]
        raise SettingError(f"images: captions must stand in one place; got {', '.join(several)}.")
    is_note = len(strays) == 1 and not (tables or beside)
    read = [*files, *tables, *(() if is_note else texts)]
    warn_of_unread(own, unread(own, read))
    where = str(tables[0] if tables else own)
    if tables:
        found, strays = _of_table(tables[0], name, {file.name: file for file in files}, folder)
    elif (beside or strays) and not is_note:
        found = {file: _sidecar(text) for file, text in beside}
    else:
        return {}
    if strays:
        raise SettingError(
            f"images: the captions of {where} must be of pictures in {own}; {strays[0]} is of none "
            f"({len(strays)} are)."
        )
    if not found:
        return {}  # a table above both folders may be of the other alone
    bare = [file.name for file in files if file not in found]
    if bare:
        raise SettingError(
            f"images: {where} must have a caption for every picture in {own}; "
            f"{bare[0]} has none ({len(bare)} of {len(files)})."
        )
    return found


def _tables(folder: Path) -> list[Path]:
    """The tables of captions in a folder; SettingError for one in a form that is not read."""
    found = [
        file for file in unread(folder, []) if file.is_file() and file.stem.lower() == "metadata"
    ]
    odd = next((file for file in found if file.suffix.lower() not in TABLES), None)
    if odd is not None:
        raise SettingError(
            f"images: captions must stand in metadata{', metadata'.join(TABLES)}; got {odd}."
        )
    return found


def _of_table(
    file: Path, name: str, known: dict[str, Path], folder: Path
) -> tuple[dict[Path, str], list[str]]:
    """(captions by picture, file names that are no picture of the folder `name`)."""
    found, strays, is_above = dict[Path, str](), list[str](), file.parent == folder
    for key, text in read_captions(file).items():
        *parents, base = key.replace("\\", "/").removeprefix("./").split("/")
        if is_above and parents in (["forget"], ["retain"]) and parents != [name]:
            continue
        is_here = parents == [name] or (not parents and not is_above)
        if is_here and base in known and known[base] not in found:
            found[known[base]] = text
        else:
            strays.append(key)
    return found, strays


def _sidecar(file: Path) -> str:
    try:
        text = file.read_text("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"images: {file} cannot be read as a caption: {error}.") from error
    if not text:
        raise SettingError(f"images: {file} must hold a caption; it is empty.")
    return text


def refuse_named(folder: Path, captions: Sequence[str], concepts: Sequence[Concept]) -> None:
    """SettingError for a picture to keep whose caption names what is to be forgotten."""
    for caption in captions:
        named = next((c.name for c in concepts if mentions(caption, c.name)), None)
        if named is not None:
            raise SettingError(
                f"images: captions in {folder / 'retain'} must not name what is erased; "
                f"{caption!r} names {named}."
            )


def warn_of_uncaptioned(folder: Path, first: str) -> None:
    """A warning, in one line, that pictures to keep are taught by prompts that nobody chose."""
    warnings.warn(
        f"images: pictures in {folder} have no captions and are taught by general prompts in turn, "
        f"{first!r} the first, whatever they show; add captions, or name prompts with "
        "--retain-prompts.",
        DataWarning,
        stacklevel=3,
    )


def warn_of_unnamed(captions: Mapping[Path, str], concepts: Sequence[Concept]) -> None:
    """A warning, in one line, of captions of what is to be forgotten that do not name it.

    A synonym may be meant, so they are no error; they are what the anchor takes the place of.
    """
    bare = [
        (file, text)
        for file, text in captions.items()
        if not any(mentions(text, concept.name) for concept in concepts)
    ]
    if bare:
        file, text = bare[0]
        names = " or ".join(concept.name for concept in concepts)
        warnings.warn(
            f"images: {len(bare)} of {len(captions)} captions of what is to be forgotten do not "
            f"name {names}; the first is {shorten(text, 60)!r}, of {file}. These words, and not "
            "the name, will be taken away.",
            DataWarning,
            stacklevel=3,
        )
