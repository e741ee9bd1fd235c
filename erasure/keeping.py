"""Make an edit in a run's folder, or find it there: what erasing and forgetting share."""

import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from erasure.config import Source
from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.inputs import inputs
from erasure.models.diffusion.load import load_model
from erasure.models.digest import digest_of
from erasure.models.editable import Editable
from erasure.opening import lasting_name
from erasure.registry import plugin_source
from erasure.training.run import Run
from erasure.training.run_folder import refuse_inside
from erasure_datasets.concept import Concept
from erasure_datasets.errors import DataError


def kept_edit(
    run: Run, record: Mapping[str, object], make: Callable[[], Edit]
) -> tuple[Edit, bool]:
    """(the run's edit, whether it was made just now); what fails before it learned is taken back.

    RunError, and the folder stays as it is, if another process is at work in it or it holds
    another run.
    """
    refuse_inside(run.folder)
    with run.alone():
        if run.begin(record):
            return Edit.load(run.folder), False
        try:
            edit = _signed(make(), record)
            if run.is_main:
                edit.save(run.folder)
            run.finish()
        except Exception as error:
            run.withdraw()
            if isinstance(error, DataError):
                raise SettingError(str(error)) from error
            raise
    return edit, True


def _signed(edit: Edit, record: Mapping[str, object]) -> Edit:
    """The edit with its base's revision and digest."""
    name, revision = record["model"], record["revision"]
    if lasting_name(edit.base) in (name, f"{name}@{revision}"):
        known = {"revision": revision, "base_digest": record["base_digest"]}
        return replace(edit, base=str(name), **known)  # type: ignore[arg-type]
    base = lasting_name(edit.base)  # a generator that was made from the model
    return replace(edit, base=base, base_digest=digest_of(load_model(base)))


def base_of(model: Editable) -> tuple[str, str | None]:
    """A model's name and, apart, its revision."""
    if Path(model.name).exists():
        return lasting_name(model.name), None
    name, _, revision = model.name.partition("@")
    return name, revision or None


def record_of(
    run: Run, word: str, model: Editable, concepts: list[Concept], settings: object,
    sources: Mapping[str, Source],
) -> dict[str, Any]:  # fmt: skip
    """What config.json says of every run, before it begins."""
    name, revision = base_of(model)
    values = asdict(settings)  # type: ignore[call-overload]
    return {
        "command": shlex.join(sys.argv),
        "method": word,
        "model": name,
        "revision": revision,
        "base_digest": digest_of(model),
        "concepts": [concept.as_json() for concept in concepts],
        "settings": values,
        "inputs": inputs(values) | plugin_source(type(settings)),
        "sources": dict(sources),
        "seed": run.seed,
        **{name: value for name, value in asdict(run.hardware).items() if name != "device"},
        "processes": run.accelerator.num_processes,
    }
