"""The main job in one call: erase a concept from the built-in model, judge it, export it, show it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erasure.erasing import erase
from erasure.exporting import export, open_run
from erasure.models.load import load_model

from evaluation.evaluate import evaluate
from evaluation.generate import draw
from evaluation.grid import grid
from evaluation.page import write_page
from evaluation.protocols import pocket

SUBSET = 96
COLUMNS = ("Photo", "Sketch", "Watercolor", "Van Gogh", "Pop Art", "Winter", "Crayon", "Blueprint")


@dataclass(frozen=True)
class Quickstart:
    """The scores' record and where everything lies."""

    record: dict[str, Any]
    places: dict[str, Path]


def quickstart(out: Path, concept: str = "cat") -> Quickstart:
    """Everything lands under `out`; finished parts are not done again."""
    model = load_model("pocket")
    result = erase(model, "salun", [concept], out=out, quick=True)
    record = evaluate(out, subset=SUBSET)
    picture = before_and_after(out, result.edit.concepts[0].name)
    exported = out / "export"
    if not exported.exists():
        export(out, exported)
    page = write_page(out, record, [picture])
    places = {"run": out, "scores": out / "scores" / "pocket-subset.json", "pictures": picture, "export": exported, "page": page}
    return Quickstart(json.loads(places["scores"].read_text()), places)


def before_and_after(run: Path, name: str) -> Path:
    """A PNG: the concept and one kept neighbour in eight styles (or objects), un-erased above erased, same noise."""
    catalogue = pocket.catalogue()
    pairs = catalogue.pairs()
    if name in catalogue.styles:
        kept = next(style for style in reversed(catalogue.styles) if style != name)
        columns = catalogue.objects[::2]
        asked = [[pairs.index((c, s)) for c in columns] for s in (name, kept)]
    else:
        kept = catalogue.objects[catalogue.objects.index(name) - 2]
        columns = COLUMNS
        asked = [[pairs.index((o, c)) for c in columns] for o in (name, kept)]
    rows, names = [], []
    models = {"un-erased": open_run(run, edited=False), "erased": open_run(run)}
    for indices, label in zip(asked, (name, kept), strict=True):
        for when, model in models.items():
            model.use_scheduler(pocket.SCHEDULER)
            folder = run / "images" / (pocket.NAME if when == "erased" else f"{pocket.NAME}-base")
            shots = pocket.shots([(pocket.SEEDS[0], index) for index in indices])
            rows.append(draw(model, shots, folder, steps=pocket.STEPS, guidance=pocket.GUIDANCE))
            names.append(f"{label}, {when}")
    file = run / "images" / "before-after.png"
    grid(rows, names, columns).save(file)
    return file
