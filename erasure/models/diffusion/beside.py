"""What this toolkit keeps in a model's folder beside it: concepts, presets, sampling, text."""

from pathlib import Path
from typing import TypedDict

from erasure.errors import ModelError
from erasure.files.records import PresetsShape, SamplingShape, Value, read_record
from erasure.models.diffusion.model import Sampling
from erasure_datasets.concept import Catalogue


class CatalogueShape(TypedDict):
    """concepts.json."""

    objects: list[str]
    styles: list[str]
    plain_style: str
    sentence: str


class TextShape(TypedDict):
    """text.json."""

    max_sequence_length: int


class SizeShape(TypedDict):
    """size.json."""

    resolution: int


def read_presets(folder: Path | None, word: str) -> dict[str, Value]:
    """The model folder's own settings for a method or attack; empty if it has none."""
    file = folder / "presets.json" if folder else None
    if file is None or not file.is_file():
        return {}
    return read_record(file, PresetsShape, error=ModelError).get(word, {})


def read_catalogue(folder: Path | None) -> Catalogue | None:
    """The concepts that a model folder says it knows; None if it says nothing."""
    file = folder / "concepts.json" if folder else None
    if file is None or not file.is_file():
        return None
    record = read_record(file, CatalogueShape, error=ModelError)
    if not record["objects"] or record["plain_style"] not in record["styles"]:
        raise ModelError(
            f"{file} must hold at least one object, and its plain_style among its styles."
        )
    try:
        sentence = record["sentence"].format(object="\0o", style="\0s")
    except (LookupError, ValueError, AttributeError) as error:
        raise ModelError(f"the sentence of {file} has unknown places: {error!r}.") from error
    if not ("\0o" in sentence and "\0s" in sentence):
        raise ModelError(f"the sentence of {file} must hold {{object}} and {{style}}.")
    return Catalogue.load(file)


def read_rows(folder: Path) -> int | None:
    """How many rows of T5's, or of zeros in their place, the model is best asked with."""
    file = folder / "text.json"
    if not file.is_file():
        return None
    return read_record(file, TextShape, error=ModelError)["max_sequence_length"]


def read_resolution(folder: Path) -> int | None:
    """The side in pixels that the model is best drawn at, where its own configs do not say it."""
    file = folder / "size.json"
    if not file.is_file():
        return None
    return read_record(file, SizeShape, error=ModelError)["resolution"]


def read_sampling(folder: Path) -> Sampling | None:
    """How the model must be drawn, if its folder says that it is no ordinary one."""
    file = folder / "sampling.json"
    if not file.is_file():
        return None
    return Sampling(**read_record(file, SamplingShape, error=ModelError))
