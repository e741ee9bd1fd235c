"""The protocol `continual`: class-forgetting after the last of several requests, and on the way.

Acc_f is of the last request's classes, Acc_o of all earlier ones, Acc_r of those never forgotten.
`after` has the same after each request, `worst` the deepest dip of Acc_r while one was learned.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erasure.storage import read_lines, write_json
from evaluation.protocols import Protocol, class_forgetting

NAME = "continual"


def evaluate(
    run: Path, *, name: str = NAME, classes: Sequence[str] | None = None,
    reference: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """As class_forgetting.evaluate, with what was recorded after and during each request."""
    record = class_forgetting.evaluate(run, name=name, classes=classes, reference=reference)
    record["after"] = record.pop("requests")
    record["curve"] = curve(run)
    dips = [point["Acc_r"] for point in record["curve"]]
    record["worst"] = {"Acc_r": min(dips) if dips else None}
    write_json(run / "scores" / f"{name}.json", record)
    return record


def curve(run: Path) -> list[dict[str, Any]]:
    """What the probe saw during the requests: dicts of request, step and accuracies."""
    points = []
    for entry in read_lines(run / "log.jsonl"):
        stage, _, number = entry["stage"].partition(" ")
        if stage == "request" and "Acc_r" in entry:
            points.append({**entry, "request": int(number)})
    return points


PROTOCOL = Protocol(
    NAME,
    "classes",
    lambda asked: evaluate(asked.folder, classes=asked.concepts, reference=asked.reference),
    frozenset({"reference"}),
)
