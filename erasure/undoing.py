"""Take requests back from a run that keeps one adapter for each."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erasure.edit import Edit
from erasure.errors import RunError, SettingError
from erasure.files.naming import checked_path
from erasure.files.records import RequestsShape, read_record
from erasure.files.storage import atomic, write_json
from erasure.training.run_folder import refuse_inside, run_record


def undo(run: Path | str, out: Path | str, *, concepts: str | Sequence[str]) -> Path:
    """A new run without the requests for these concepts; what the others took stays taken.

    EditError unless every name that a request took is given back with it.
    """
    run, out = checked_path(run, "run"), checked_path(out, "out")
    if out.exists():
        raise SettingError(f"out must be a new folder; {out} exists.")
    refuse_inside(out)
    edit = Edit.load(run)
    names = [concepts] if isinstance(concepts, str) else list(concepts)
    known = {name.lower(): name for taken in edit.requests.values() for name in taken}
    kept = edit.without([known.get(name.lower(), name) for name in names])
    record = {
        **run_record(run), "concepts": [concept.as_json() for concept in kept.concepts],
        "command": shlex.join(sys.argv), "undone": names, "from": str(run),
    }  # fmt: skip
    if "tasks" in record:
        record["tasks"] = list(kept.requests.values())
    with atomic(out) as temporary:
        temporary.mkdir(parents=True, exist_ok=True)
        kept.save(temporary)
        write_json(temporary / "config.json", record)
        if "tasks" in record:
            write_json(temporary / "requests.json", _requests(run, list(kept.requests.values())))
    return out


def _requests(run: Path, kept: list[list[str]]) -> list[dict[str, Any]]:
    """What was measured after each request that stays.

    The figures of those that came after one that is taken back are of a model that is no more:
    they are left out.
    """
    known = read_record(run / "requests.json", RequestsShape)
    places = {tuple(request["classes"]): index for index, request in enumerate(known)}
    found = []
    for index, classes in enumerate(kept):
        if tuple(classes) not in places:
            raise RunError(f"{run / 'requests.json'} has no request for {', '.join(classes)}.")
        request = known[places[tuple(classes)]]
        is_true = index == places[tuple(classes)]
        told = ("classes", "seconds")
        found.append({k: v for k, v in request.items() if is_true or k in told})
    return found
