"""The main job in one call: erase a concept from the built-in model, judge, export, show."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erasure.erasing import erase
from erasure.exports.exporting import export
from evaluation.evaluating import evaluate
from evaluation.reports.reporting import report

SUBSET = 96


@dataclass(frozen=True)
class Quickstart:
    """The scores' record and where everything lies."""

    record: dict[str, Any]
    places: dict[str, Path]


def quickstart(out: Path, concept: str = "cat") -> Quickstart:
    """Everything lands under `out`; finished parts are not done again."""
    erase("pocket", "salun", [concept], out=out, quick=True)
    record = evaluate(out, subset=SUBSET)
    pictures = sorted((out / "images").glob("before-after-*.png"))
    exported = out / "export"
    if not exported.exists():
        export(out, exported)
    page = report([out], out / "report.html")[0]
    places = {
        "run": out,
        "scores": out / "scores" / f"pocket-{SUBSET}-subset.json",
        "pictures": pictures[0],
        "export": exported,
        "page": page,
    }
    return Quickstart(record, places)
