"""The protocol `continual`: class-forgetting after the last of several requests, and on the way.

Acc_f is of the last request's classes, Acc_o of all earlier ones, Acc_r of those never forgotten.
`after` has the same after each request, `worst` the deepest dip of Acc_r while one was learned.

What was seen while the last request was learned, class by class on the log's probe and never on the
test images, where it could be set apart (`probe` says so): min_Acc, the mean of the kept classes'
least accuracies; WC, the same with the share forgotten in the end as one more; WF10, how far a kept
class falls within ten looks, on average; max_Acc_o, how far earlier requests' classes came back.
`after` has them of each request, `worst` each kept class's least accuracy. De Lange et al. (ICLR
2023). A look is taken every `--watch-every` steps; ten of them span ninety steps by default.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from erasure.files.storage import write_json
from erasure.registry import PROTOCOLS
from evaluation.forgetting_run import open_run
from evaluation.on_the_way import looks, told_probe, worst_moments
from evaluation.protocols import Asked, Option, Protocol, class_forgetting
from evaluation.score import plain

NAME = "continual"


def evaluate(
    run: Path, *, name: str = NAME, classes: Sequence[str] | None = None,
    reference: Path | None = None, base: Path | str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """As class_forgetting.evaluate, with what was recorded after and during each request."""
    seen = looks(run)
    found = open_run(run, reference=reference, base=base)
    model = found.model
    record = class_forgetting.scored(found, name=name, classes=classes, reference=reference)
    tasks = [model.indices(task) for task in found.config["tasks"]] or [[]]
    moments, least, why = worst_moments(seen, tasks, len(model.labels))
    record["scores"] |= plain(moments[-1])
    record["left_out"] |= why
    record["after"] = [
        {**told, **{key: score.value for key, score in own.items()}}
        for told, own in zip(record.pop("requests"), moments, strict=True)
    ]
    record["curve"] = [
        {key: value for key, value in look.items() if key not in ("Acc", "probe")} for look in seen
    ]
    dips = [look["Acc_r"] for look in seen]
    record["worst"] = {
        "Acc_r": min(dips) if dips else None,
        "classes": {model.title(number): value for number, value in least.items()},
    }
    probe = told_probe(seen)
    if probe is not None:
        record["probe"] = probe
        record["stamp"] = {**record["stamp"], "probe": probe["note"]}
    write_json(class_forgetting.file_of(run, found, name, classes), record)
    return record


@PROTOCOLS.register
class Continual(Protocol):
    """Class-forgetting after several requests, and on the way."""

    judges: ClassVar[Literal["drawings", "classes"]] = "classes"
    takes: ClassVar[frozenset[Option]] = frozenset({"reference"})

    def evaluate(self, asked: Asked) -> dict[str, Any]:
        return evaluate(
            asked.folder, classes=asked.concepts, reference=asked.reference, base=asked.base
        )
