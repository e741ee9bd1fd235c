"""`--dry-run`: what a command would change, how long that takes here, and in how much memory.

The method itself works on the real model for a few steps, of which nothing is kept, so that all is
checked that a real run checks. What is told of time and memory was measured; what was not reached
is left out.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from erasure.config import shortened
from erasure.edit import Edit
from erasure.erasing import planned
from erasure.errors import RunError, SettingError, StorageError
from erasure.files.locking import is_held
from erasure.models.editable import Editable
from erasure.training.hardware import Hardware, peak_memory
from erasure.training.processes import process_count
from erasure.training.rehearsal import Enough, Rehearsal, Stage
from erasure.training.run import Run
from erasure.training.run_folder import own_record, refuse_inside
from erasure_datasets.errors import DataError

FLOAT32 = 4  # bytes
FINISHED = "finished already: the command would return what is there"


@dataclass(frozen=True)
class Timed:
    """A stage of the rehearsal: so many units done of all, and seconds of one as the run has it."""

    name: str
    done: int
    total: int
    unit_seconds: float
    expected: float  # seconds of the whole stage


@dataclass(frozen=True)
class Forecast:
    """What a dry run found. Bytes and seconds are measured, or None where nothing was.

    `tensors` and `parameters` may change, of `of_all` parameters; `is_beside` says that they are
    adapters and no weights of the model. `cut` are the settings that the rehearsal had less of.
    `whole_seconds` are those of a method that came to its end.
    """

    folder: Path
    state: str
    model: str
    device: str
    method: str
    what: str
    settings: Mapping[str, tuple[object, str]]
    hardware: Mapping[str, object]
    tensors: int
    parameters: int
    of_all: int
    is_beside: bool
    cut: Mapping[str, object]
    stages: list[Timed]
    whole_seconds: float | None
    peak_bytes: int
    edit_bytes: int
    state_bytes: int | None
    opening_seconds: float


def foresee_erasure(*asked: Any, **named: Any) -> Forecast:
    """As `erasing.erase`, of which nothing is done or written."""
    refuse_several_processes()
    start, rehearsal = time.monotonic(), Rehearsal()
    plan = planned(*asked, **named, rehearsal=rehearsal)
    what = "; ".join(
        f"{concept.name} ({concept.kind}), instead of it "
        + (repr(concept.anchor) if concept.anchor else "nothing in particular")
        for concept in plan.concepts
    )
    if plan.below:
        what += f"; beside what is gone from {plan.below.run}"
    return foresee(plan.run, plan.model, plan.method, plan.record, plan.make, what, start)


def foresee_forgetting(*asked: Any, **named: Any) -> Forecast:
    """As `forgetting.forget`, of which nothing is done or written; only the first request is tried.

    Its images are read as for the run itself, since they say how many steps there are.
    """
    from erasure import forgetting  # timm takes long to import, and erasing needs none of it

    refuse_several_processes()
    start, rehearsal = time.monotonic(), Rehearsal()
    plan = forgetting.planned(*asked, **named, rehearsal=rehearsal)

    def make(method: Any) -> Edit | None:
        requests, _, _ = plan.requests()
        method.forget(plan.model, requests[0], plan.run)
        if len(requests) > 1:  # the others are no shorter, and were not tried
            raise Enough
        return None

    titles = [", ".join(task) for task in plan.record["tasks"]]
    what = "; then ".join(titles) or plan.samples.title
    return foresee(plan.run, plan.model, plan.method, plan.record, make, what, start)


def refuse_several_processes() -> None:
    """SettingError under a launch of several processes."""
    if process_count() > 1:
        raise SettingError(
            f"dry_run is for one process, and this launch has {process_count()}; leave the "
            "launcher out."
        )


def foresee(
    run: Run, model: Editable, method: Any, record: Mapping[str, Any],
    make: Callable[[Any], Edit | None], what: str, start: float,
) -> Forecast:  # fmt: skip
    """Rehearse what `make` does with a method; `start` is when the model began to be opened."""
    state, short = _state_of(run, record), shortened(method)
    rehearsal = run.rehearsal or Rehearsal()
    opened, began = time.monotonic() - start, time.monotonic()
    edit, is_whole = (None, False) if state == FINISHED else _rehearsed(run, make, short)
    seconds = time.monotonic() - began
    sizes = _sizes(model, rehearsal)
    known = {name: tensor.numel() for name, tensor in model.tensors().items()}
    size = sum(sizes.values()) * FLOAT32
    if edit is not None:
        size = sum(tensor.nbytes for tensor in edit.tensors.values())
    values, brief = asdict(method), asdict(short)
    is_whole = is_whole and values == brief and all(s.done == s.total for s in rehearsal.stages)
    return Forecast(
        run.folder, state, model.name, str(run.device), record["method"], what,
        {name: (value, record["sources"].get(name, "default")) for name, value in values.items()},
        _unusual(run, record),
        len(sizes), sum(sizes.values()), sum(known.values()),
        is_beside=not sizes.keys() <= known.keys(),
        cut={n: brief[n] for n, value in values.items() if value != brief[n]},
        stages=[_timed(stage, values, brief) for stage in rehearsal.stages if stage.done],
        whole_seconds=seconds if is_whole else None,
        peak_bytes=peak_memory(run.device), edit_bytes=size,
        state_bytes=rehearsal.state_bytes or None, opening_seconds=opened,
    )  # fmt: skip


def _rehearsed(
    run: Run, make: Callable[[Any], Edit | None], short: Any
) -> tuple[Edit | None, bool]:
    """(the edit of a method that came to its end, whether it did)."""
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    try:
        return make(short), True
    except Enough:
        return None, False
    except DataError as error:
        raise SettingError(str(error)) from error


def _unusual(run: Run, record: Mapping[str, Any]) -> dict[str, object]:
    """The seed, and what is asked of the hardware beyond the defaults."""
    asked = {item.name: getattr(run.hardware, item.name) for item in fields(Hardware)}
    unusual = {f.name: asked[f.name] for f in fields(Hardware) if asked[f.name] != f.default}
    return {"seed": record["seed"], **unusual}


def _sizes(model: Editable, rehearsal: Rehearsal) -> dict[str, int]:
    """The elements of each tensor that may change, or of what is learnt beside the model."""
    if model.originals:
        return {name: tensor.numel() for name, tensor in model.originals.items()}
    return rehearsal.learnt


def _timed(stage: Stage, values: Mapping[str, Any], brief: Mapping[str, Any]) -> Timed:
    """A stage as the real run has it, whose cost is proportional to the settings it grows with."""
    factor = 1.0
    for name in stage.grows_with:
        factor *= values.get(name, 1) / brief.get(name, 1)
    expected = stage.seconds * stage.total * factor
    return Timed(stage.name, stage.done, stage.total, stage.seconds, expected)


def _state_of(run: Run, record: Mapping[str, Any]) -> str:
    """What the run would find in its folder; the errors are those of a run that begins."""
    refuse_inside(run.folder)
    _refuse_place(run.folder)
    if is_held(run.folder):
        raise RunError(
            f"another process is at work in {run.folder}; wait for it, or name another --out."
        )
    if not own_record(run.folder, record):
        return "a new folder"
    if (run.folder / "edit.json").is_file():
        return FINISHED
    return "begun already: the command would go on with it"


def _refuse_place(folder: Path) -> None:
    """StorageError for a folder that could not be made or written into."""
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        why = "is no folder" if not place.is_dir() else "may not be written into"
        raise StorageError(f"{folder} cannot be a run's folder: {place} {why}; name another --out.")
