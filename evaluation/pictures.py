"""Before and after, side by side: the concept, and a neighbour that is kept."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from PIL import Image

from erasure.files.naming import slug
from erasure.files.storage import atomic
from erasure.models.diffusion.model import DiffusionModel, Sampling
from erasure.training.processes import launched
from erasure_datasets.concept import Concept
from erasure_datasets.images import read_image
from evaluation.drawing.generate import draw
from evaluation.drawing.grid import grid
from evaluation.prompts.plan import Row
from evaluation.protocols import pocket

WIDE, SMALL = 8, 128  # pictures in a row, and their pixels
COLUMNS = ("Photo", "Sketch", "Watercolor", "Van Gogh", "Pop Art", "Winter", "Crayon", "Blueprint")


def before_and_after(
    run: Path, concept: Concept, edited: DiffusionModel, *, erased: Sequence[Concept],
    sampling: Sampling | None = None,
) -> Path:  # fmt: skip
    """A PNG: the concept and a kept neighbour, un-erased above erased, from the same noise.

    An object is shown in eight styles, a style in eight objects, of which none is `erased`; where
    no neighbour is kept there is none. Images that the protocol has drawn already are taken from
    there; `sampling` is what the edit demands.
    """
    pairs, gone = pocket.catalogue().pairs(), {target.name for target in erased}
    columns, kept = _beside(concept.name, gone)
    shown, is_style = [concept.name, *kept], concept.name in pocket.catalogue().styles
    rows, names = [], []
    how = sampling or edited.sampling or pocket.SAMPLING
    edited.use_scheduler(how.scheduler)
    for label in shown:
        asked = [(column, label) if is_style else (label, column) for column in columns]
        shots = pocket.shots([(pocket.SEEDS[0], pairs.index(pair)) for pair in asked])
        for when, folder, model in (
            ("un-erased", f"{pocket.NAME}-base", edited.without_edit()),
            ("erased", pocket.NAME, nullcontext()),
        ):
            place = run / "images" / folder
            with model:
                images = draw(edited, shots, place, steps=how.steps, guidance=how.guidance)
            rows.append(images)
            names.append(f"{label}, {when}")
    return _saved(run, concept.name, grid(rows, names, columns))


def drawn_before_and_after(
    run: Path, protocol: str, rows: Sequence[Row], concept: str
) -> Path | None:
    """As `before_and_after`, of what a protocol has drawn into images/NAME and images/NAME-base.

    Rows are the concept, its first neighbour and what is kept; columns are prompts. None where the
    un-erased model drew nothing.
    """
    near = next((r.name for r in rows if r.role == "near" and r.concept == concept), None)
    parts = {
        concept: [r for r in rows if r.role == "concept" and r.concept == concept],
        str(near): [r for r in rows if r.role == "near" and r.name == near],
        "kept": [r for r in rows if r.role == "keep"],
    }
    first = {name: own[:: max(len(own) // WIDE, 1)][:WIDE] for name, own in parts.items()}
    count = min(len(own) for own in first.values() if own)
    pictures, names = [], []
    for name, own in first.items():
        for when, place in (("un-erased", f"{protocol}-base"), ("erased", protocol)):
            files = [run / "images" / place / row.shot.file for row in own[:count]]
            if files and all(file.is_file() for file in files):
                pictures.append(torch.stack([read_image(file, SMALL) for file in files]))
                names.append(f"{name}, {when}")
    if not pictures:
        return None
    return _saved(run, concept, grid(pictures, names, [""] * count, zoom=1))


def _saved(run: Path, concept: str, picture: Image.Image) -> Path:
    """The picture's place; the main process of a launch writes it."""
    file = run / "images" / f"before-after-{slug(concept)}.png"
    if launched().is_main_process:
        with atomic(file) as temporary:
            picture.save(temporary, format="PNG")
    return file


def _beside(name: str, gone: set[str]) -> tuple[list[str], list[str]]:
    """(what the concept is shown in, the kept neighbour if any); none of them is erased."""
    styles, objects = pocket.catalogue().styles, pocket.catalogue().objects
    if name in styles:
        neighbours, columns = styles[::-1], [*objects[::2], *objects[1::2]]
    else:
        index = objects.index(name)
        # two before it: the next one in the list is what is drawn instead
        neighbours = [objects[index - step] for step in range(2, len(objects) + 1)]
        columns = [*COLUMNS, *(style for style in styles if style not in COLUMNS)]
    kept = [other for other in neighbours if other != name and other not in gone]
    shown = [column for column in columns if column not in gone] or columns
    return shown[: len(COLUMNS)], kept[:1]
