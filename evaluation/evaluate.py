"""`erasure evaluate`: a run's folder, or an un-erased model, under a protocol."""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erasure.config import module_names, nearest
from erasure.edit import Edit
from erasure.erasing import find_concepts
from erasure.errors import SettingError
from erasure.exporting import open_run
from erasure.models.load import load_model
from erasure.processes import own_device
from evaluation.pictures import before_and_after

FOR_CLASSES = ("class-forgetting", "continual")


def protocols() -> list[str]:
    """Every protocol's name."""
    return module_names(Path(__file__).parent / "protocols")


def evaluate(
    run: Path | None = None, *, model: str | None = None, out: Path | None = None,
    protocol: str | None = None, subset: int | None = None, seeds: Sequence[int] = (188, 288),
    concepts: Sequence[str] | None = None, reference: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score a run against its un-erased model, or score an un-erased `model` into `out`.

    Also draws images/before-after-CONCEPT.png for a run that erases. The protocol is `pocket`
    unless named; for a run that forgets classes it is class-forgetting, or continual after several
    requests, where `concepts` are classes and `reference` is the run of a retrained model. The
    processes of a launch share the drawing, and the main one writes. Returns the record written to
    scores/PROTOCOL.json. SettingError for arguments that clash.
    """
    tasks = _tasks(run)
    word = (protocol or _default_protocol(tasks)).replace("_", "-")
    if word not in protocols():
        raise SettingError(f"there is no protocol {protocol!r}. {nearest(word, protocols())}")
    module = importlib.import_module(f"evaluation.protocols.{word.replace('-', '_')}")
    if (run is None) == (model is None):
        raise SettingError(
            "evaluate takes either a run's folder or --model, not both and not neither."
        )
    if (tasks is None) == (word in FOR_CLASSES):
        raise SettingError(
            f"the protocol {word} is for runs of "
            f"`erasure {'forget' if tasks is None else 'erase'}`; {run} is none."
        )
    if tasks is not None:
        return module.evaluate(run, classes=concepts, reference=reference)
    if reference is not None:
        raise SettingError("reference is for runs of `erasure forget`.")
    if model is not None:
        if out is None:
            raise SettingError(
                "evaluate --model needs --out, the folder for its images and scores."
            )
        untouched = load_model(model, device=own_device())
        targets = find_concepts(untouched, concepts) if concepts else []
        if targets:
            raise SettingError("an un-erased model has no targets; leave --concept out.")
        return module.evaluate(untouched, out, concepts=[], seeds=seeds, subset=subset)
    assert run is not None
    edit = Edit.load(run)
    edited = open_run(run, device=own_device())
    targets = find_concepts(edited, concepts) if concepts else edit.concepts
    record = module.evaluate(
        edited, run, concepts=targets, seeds=seeds, subset=subset, sampling=edit.sampling
    )
    for target in targets:
        before_and_after(run, target, edited)
    return record


def _tasks(run: Path | None) -> list[list[str]] | None:
    """The requests of a run that forgets classes; None for any other."""
    file = run / "config.json" if run else None
    return json.loads(file.read_text()).get("tasks") if file and file.is_file() else None


def _default_protocol(tasks: list[list[str]] | None) -> str:
    if tasks is None:
        return "pocket"
    return "class-forgetting" if len(tasks) == 1 else "continual"


def read_scores(run: Path, protocol: str) -> dict[str, Any]:
    """A finished evaluation's record; SettingError if there is none."""
    file = run / "scores" / f"{protocol}.json"
    if not file.is_file():
        raise SettingError(f"{run} has no scores under {protocol}; run `erasure evaluate {run}`.")
    return json.loads(file.read_text())
