"""Before and after, side by side, under the protocol `pocket`."""

from contextlib import nullcontext
from pathlib import Path

from erasure.models.diffusion import DiffusionModel
from erasure.processes import launched
from erasure_datasets.concept import Concept
from evaluation.generate import draw
from evaluation.grid import grid
from evaluation.protocols import pocket

COLUMNS = ("Photo", "Sketch", "Watercolor", "Van Gogh", "Pop Art", "Winter", "Crayon", "Blueprint")


def before_and_after(run: Path, concept: Concept, edited: DiffusionModel) -> Path:
    """A PNG: the concept and a kept neighbour, un-erased above erased, from the same noise.

    An object is shown in eight styles, a style in eight objects. Images that the protocol has drawn
    already are taken from there.
    """
    catalogue = pocket.catalogue()
    pairs = catalogue.pairs()
    if concept.name in catalogue.styles:
        kept = next(style for style in reversed(catalogue.styles) if style != concept.name)
        columns = catalogue.objects[::2]
        asked = [[pairs.index((c, s)) for c in columns] for s in (concept.name, kept)]
    else:
        kept = catalogue.objects[catalogue.objects.index(concept.name) - 2]
        columns = COLUMNS
        asked = [[pairs.index((o, c)) for c in columns] for o in (concept.name, kept)]
    rows, names = [], []
    how = edited.sampling or pocket.SAMPLING
    edited.use_scheduler(how.scheduler)
    for indices, label in zip(asked, (concept.name, kept), strict=True):
        shots = pocket.shots([(pocket.SEEDS[0], index) for index in indices])
        for when, folder, model in (
            ("un-erased", f"{pocket.NAME}-base", edited.without_edit()),
            ("erased", pocket.NAME, nullcontext()),
        ):
            place = run / "images" / folder
            with model:
                images = draw(edited, shots, place, steps=how.steps, guidance=how.guidance)
            rows.append(images)
            names.append(f"{label}, {when}")
    file = run / "images" / f"before-after-{concept.name.replace(' ', '_')}.png"
    if launched().is_main_process:
        grid(rows, names, columns).save(file)
    return file
