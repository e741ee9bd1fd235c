"""Files of prompts, as users and the field's benchmarks write them, and the built-in lists.

A .csv or .tsv with a column prompt, text or caption (ESD's, I2P's, COCO's captions among them), a
.jsonl of the same, a .txt with one prompt a line, COCO's own .json of annotations, or a .json list
of texts. Some say the seed of each prompt's noise: evaluation_seed, sd_seed or seed.
"""

import csv
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from erasure_datasets.errors import DataWarning
from erasure_datasets.tables import TableError, read_column, read_lines, read_text

FOLDER = Path(__file__).parent / "prompts"
LISTS = ("captions", "objects", "animals", "places", "people", "styles")
SEEDS = ("evaluation_seed", "sd_seed", "seed")
# what would change the image too, and is asked for once for all prompts instead
UNUSED = (
    "evaluation_guidance", "sd_guidance_scale", "guidance_scale", "guidance",
    "sd_image_width", "sd_image_height", "negative_prompt", "num_inference_steps",
)  # fmt: skip
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Line:
    """A prompt of a file, and the seed of its noise where the file says one."""

    prompt: str
    seed: int | None = None


def read_prompts(file: Path) -> list[Line]:
    """Every prompt of a file, in order, at least one; TableError names the file and what is wrong.

    A warning tells of columns that would change the images and that nothing here goes by.
    """
    suffix = file.suffix.lower()
    if suffix == ".txt":
        lines = [Line(text) for text in read_lines(file)]
    elif suffix == ".json":
        lines = _read_json(file)
    else:
        lines = _read_table(file)
    if not lines:
        raise TableError(f"{file} must have at least one prompt.")
    return lines


@cache
def built_in(name: str) -> tuple[str, ...]:
    """One of LISTS, written for this project: whole captions, or names of things of one kind."""
    with (FOLDER / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return tuple(next(iter(row.values())) for row in csv.DictReader(file))


def _read_table(file: Path) -> list[Line]:
    column = read_column(file, beside=(*SEEDS, *UNUSED))
    name = next((name for name in SEEDS if name in column.others), None)
    seeds = [None] * len(column.texts) if name is None else column.others[name]
    _warn_of_unused(file, column.others)
    return [
        Line(text, None if seed is None else _seed(file, number, str(name), seed))
        for text, number, seed in zip(column.texts, column.lines, seeds, strict=True)
    ]


def _seed(file: Path, number: int, column: str, text: str) -> int:
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if not 0 <= seed <= LARGEST_SEED:
        raise TableError(
            f"{file} must have a whole number from 0 as {column}; line {number} has {text!r}."
        )
    return seed


def _warn_of_unused(file: Path, columns: Mapping[str, list[str]]) -> None:
    unused = [name for name in UNUSED if any(columns.get(name, []))]
    if unused:
        warnings.warn(
            f"{file}: the column{'s' if len(unused) > 1 else ''} {', '.join(unused)} "
            "will not be used; every image is drawn alike.",
            DataWarning,
            stacklevel=4,
        )


def _read_json(file: Path) -> list[Line]:
    """COCO's annotations, or a list of texts."""
    try:
        record: Any = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise TableError(f"{file} is no JSON: {error}.") from error
    entries = record.get("annotations") if isinstance(record, dict) else record
    texts = (
        [e.get("caption") if isinstance(e, dict) else e for e in entries or []]
        if isinstance(entries, list)
        else [None]
    )
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise TableError(
            f"{file} must be a list of prompts, or COCO's annotations with a caption each."
        )
    return [Line(" ".join(str(text).split())) for text in texts]
