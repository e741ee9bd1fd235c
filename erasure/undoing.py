"""Take requests back from a run: of adapters one each, of a closed form by solving for the rest."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from erasure.composing import parts_of, refuse_unlike_requests
from erasure.config import resolve
from erasure.edit import NOTHING_LEFT, Edit, refuse_untaken
from erasure.errors import EditError, RunError, SettingError
from erasure.files.naming import checked_path
from erasure.files.records import RequestsShape, read_record
from erasure.files.storage import atomic, write_json
from erasure.inputs import inputs
from erasure.opening import lasting_name, open_edit
from erasure.registry import METHODS
from erasure.training.run import Run
from erasure.training.run_folder import refuse_inside, run_record
from erasure_datasets.errors import DataError


def undo(
    run: Path | str, out: Path | str, *, concepts: str | Sequence[str],
    base: Path | str | None = None,
) -> Path:  # fmt: skip
    """A new run without the requests for these concepts; what the others took stays taken.

    A run of gs-lora loses their adapters. One of UCE's is solved anew for the others, from its
    base, which `base` names if it has moved. EditError unless every name that a request took is
    given back with it, and for runs of other methods.
    """
    run, out = checked_path(run, "run"), checked_path(out, "out")
    if out.exists():
        raise SettingError(f"out must be a new folder; {out} exists.")
    refuse_inside(out)
    edit = Edit.load(run)
    asked = [concepts] if isinstance(concepts, str) else list(concepts)
    known = {concept.name.lower(): concept.name for concept in edit.concepts}
    names = [known.get(name.lower(), name) for name in asked]
    is_solved = _is_closed_form(edit)
    if is_solved:
        kept = _solved_without(run, edit, names, out, base)
    elif base is not None:
        raise SettingError(f"base has no effect on a run of {edit.method}; leave it out.")
    else:
        kept = edit.without(names)
    record = {
        **run_record(run), "concepts": [concept.as_json() for concept in kept.concepts],
        "command": shlex.join(sys.argv), "undone": asked, "from": str(run),
    }  # fmt: skip
    if "onto" in record:
        record["onto"] = None  # nothing lies below what is left
    if is_solved:
        record |= {"method": kept.method, "settings": kept.settings}
    if "tasks" in record:
        record["tasks"] = list(kept.requests.values())
    with atomic(out) as temporary:
        temporary.mkdir(parents=True, exist_ok=True)
        kept.save(temporary)
        write_json(temporary / "config.json", record)
        if "tasks" in record:
            write_json(temporary / "requests.json", _requests(run, list(kept.requests.values())))
    return out


def _is_closed_form(edit: Edit) -> bool:
    """Whether a single method made it that can solve for its requests anew."""
    if edit.is_of_classifier or edit.method not in METHODS.names("diffusion"):
        return False
    return hasattr(METHODS.get("diffusion", edit.method), "anew")


def _solved_without(
    run: Path, edit: Edit, names: Sequence[str], out: Path, base: Path | str | None
) -> Edit:
    """What one request for the other concepts gives, to the bit, with the anchors that they had.

    RunError if a file that it read then holds something else now.
    """
    settings = parts_of(edit)[-1]["settings"]  # of runs put together, those of each
    refuse_unlike_requests(edit, edit.method, settings)
    then = run_record(run).get("inputs", {})
    for name, digest in inputs(settings, then).items():
        if then.get(name) != digest:
            other = "holds something else than" if name in then else "is not known to hold what"
            raise RunError(f"{name} of {run}, {settings[name]}, {other} it did then.")
    refuse_untaken(names, {concept.name for concept in edit.concepts})
    left = [concept for concept in edit.concepts if concept.name not in names]
    if not left:
        raise EditError(NOTHING_LEFT)
    model, _ = open_edit(run, edited=False, base=base)
    given: dict[str, Any] = {**settings, "anew": False}  # one request for the others
    kind = METHODS.get("diffusion", edit.method)
    method, _ = resolve(kind, given=given, quick=False, presets=None)
    try:
        solved: Edit = method.erase(model, left, Run(out))
    except DataError as error:
        raise SettingError(str(error)) from error
    told = replace(edit, base=lasting_name(str(base)), revision=None) if base else edit
    return replace(solved, base=told.base, revision=told.revision, base_digest=told.base_digest)


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
