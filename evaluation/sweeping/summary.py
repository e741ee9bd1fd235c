"""A sweep in a few rows: each cell with its scores, as its run's records have them."""

from pathlib import Path
from typing import Any

from erasure.files.records import AttackShape, CellShape, ScoresShape, SweepShape, read_record
from evaluation.reports.facts import is_cut
from evaluation.sweeping.cells import state_of, what
from evaluation.sweeping.showing import failure

SHOWN = ("UA", "IRA", "CRA", "Acc_f", "Acc_o", "Acc_r")  # of a record's scores


def rows(out: Path, record: SweepShape) -> list[dict[str, str]]:
    """One row per cell: its scores in percent, its seconds, its state."""
    scored = [_scores(out, cell) for cell in record["cells"]]
    keys = list(dict.fromkeys(key for own in scored for key in own))
    return [
        {
            "method": cell["method"], "concepts": "+".join(cell["concepts"]),
            "seed": str(cell["seed"]), **{key: own.get(key, "") for key in keys},
            "seconds": f"{sum(step.get('seconds', 0.0) for step in cell['steps']):.0f}",
            "state": state_of(cell),
        }
        for cell, own in zip(record["cells"], scored, strict=True)
    ]  # fmt: skip


def failures(record: SweepShape) -> list[str]:
    """A line for each cell that failed: its name, the step, and the last that it said."""
    return [f"{c['name']}: {failure(c)}" for c in record["cells"] if state_of(c) == "failed"]


def _scores(out: Path, cell: CellShape) -> dict[str, str]:
    found = dict[str, str]()
    for step in cell["steps"]:
        file = out / cell["name"] / step.get("file", "")
        if step["state"] != "done" or not file.is_file():
            continue
        if what(step) == "evaluate":
            scores = read_record(file, ScoresShape)["scores"]
            found |= {key: _percent(scores[key]) for key in SHOWN if key in scores}
        elif what(step) not in ("erase", "forget"):
            record = read_record(file, AttackShape)
            if "ASR" in record["scores"]:
                cut = " (cut)" if is_cut(record) else ""  # by its budget
                found[f"ASR {what(step)}"] = _percent(record["scores"]["ASR"]) + cut
    return found


def _percent(score: Any) -> str:
    return f"{100 * score['value']:.1f}"
