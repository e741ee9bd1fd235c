"""The protocol `continual`: class-forgetting after the last of several requests, and on the way.

Acc_f is of the last request's classes, Acc_o of all earlier ones, Acc_r of those never forgotten.
`after` has the same after each request, `worst` the deepest dip of Acc_r while one was learned.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NotRequired, TypedDict

from erasure.files.records import checked_record
from erasure.files.storage import read_lines, write_json
from erasure.registry import PROTOCOLS
from evaluation.protocols import Asked, Option, Protocol, class_forgetting

NAME = "continual"
REQUEST = re.compile(r"request (\d+)")


class PointShape(TypedDict):
    """A line of the log that the probe wrote."""

    stage: str
    step: int
    Acc_r: float
    Acc_f: NotRequired[float]
    Acc_o: NotRequired[float]


def evaluate(
    run: Path, *, name: str = NAME, classes: Sequence[str] | None = None,
    reference: Path | None = None, base: Path | str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """As class_forgetting.evaluate, with what was recorded after and during each request."""
    points = curve(run)
    record = class_forgetting.scored(
        run, name=name, classes=classes, reference=reference, base=base
    )
    record["after"] = record.pop("requests")
    record["curve"] = points
    dips = [point["Acc_r"] for point in points]
    record["worst"] = {"Acc_r": min(dips) if dips else None}
    write_json(run / "scores" / f"{name}.json", record)
    return record


def curve(run: Path) -> list[dict[str, Any]]:
    """What the probe saw while the requests were learned: request, step and accuracies.

    Other stages than a request's own ("request 0 groups") are no part of it. RunError for a line
    that no run writes.
    """
    points = []
    for entry in read_lines(run / "log.jsonl"):
        stage = REQUEST.fullmatch(str(entry.get("stage")))
        if stage and "Acc_r" in entry:
            line = checked_record(entry, PointShape, f"{run / 'log.jsonl'}'s line")
            points.append({**line, "request": int(stage[1])})
    return points


@PROTOCOLS.register
class Continual(Protocol):
    """Class-forgetting after several requests, and on the way."""

    judges: ClassVar[Literal["drawings", "classes"]] = "classes"
    takes: ClassVar[frozenset[Option]] = frozenset({"reference"})

    def evaluate(self, asked: Asked) -> dict[str, Any]:
        return evaluate(
            asked.folder, classes=asked.concepts, reference=asked.reference, base=asked.base
        )
