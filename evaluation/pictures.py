"""Before and after, side by side, under the protocol `pocket`."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from erasure.files.naming import slug
from erasure.files.storage import atomic
from erasure.models.diffusion.model import DiffusionModel, Sampling
from erasure.training.processes import launched
from erasure_datasets.concept import Concept
from evaluation.drawing.generate import draw
from evaluation.drawing.grid import grid
from evaluation.protocols import pocket

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
    file = run / "images" / f"before-after-{slug(concept.name)}.png"
    if launched().is_main_process:
        with atomic(file) as temporary:
            grid(rows, names, columns).save(temporary, format="PNG")
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
