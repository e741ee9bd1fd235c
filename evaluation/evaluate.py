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
from evaluation.pictures import before_and_after


def protocols() -> list[str]:
    """Every protocol's name."""
    return module_names(Path(__file__).parent / "protocols")


def evaluate(
    run: Path | None = None, *, model: str | None = None, out: Path | None = None,
    protocol: str = "pocket", subset: int | None = None, seeds: Sequence[int] = (188, 288),
    concepts: Sequence[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score a run against its un-erased model, or score an un-erased `model` into `out`.

    Also draws images/before-after-CONCEPT.png for a run. Returns the record written to
    scores/PROTOCOL.json. SettingError for arguments that clash.
    """
    if protocol.replace("_", "-") not in protocols():
        raise SettingError(f"there is no protocol {protocol!r}. {nearest(protocol, protocols())}")
    module = importlib.import_module(f"evaluation.protocols.{protocol.replace('-', '_')}")
    if (run is None) == (model is None):
        raise SettingError(
            "evaluate takes either a run's folder or --model, not both and not neither."
        )
    if model is not None:
        if out is None:
            raise SettingError(
                "evaluate --model needs --out, the folder for its images and scores."
            )
        untouched = load_model(model)
        targets = find_concepts(untouched, concepts) if concepts else []
        if targets:
            raise SettingError("an un-erased model has no targets; leave --concept out.")
        return module.evaluate(untouched, out, concepts=[], seeds=seeds, subset=subset)
    assert run is not None
    edit = Edit.load(run)
    edited = open_run(run)
    targets = find_concepts(edited, concepts) if concepts else edit.concepts
    record = module.evaluate(edited, run, concepts=targets, seeds=seeds, subset=subset)
    for target in targets:
        before_and_after(run, target, edited)
    return record


def read_scores(run: Path, protocol: str) -> dict[str, Any]:
    """A finished evaluation's record; SettingError if there is none."""
    file = run / "scores" / f"{protocol}.json"
    if not file.is_file():
        raise SettingError(f"{run} has no scores under {protocol}; run `erasure evaluate {run}`.")
    return json.loads(file.read_text())
