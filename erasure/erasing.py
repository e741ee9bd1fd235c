"""Erase concepts from a model: resolve the settings, run the method, keep the result."""

import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import get_args

from erasure.config import Source, Value, resolve
from erasure.edit import Edit
from erasure.errors import ErasureError, ModelError, SettingError
from erasure.exporting import open_run
from erasure.hardware import Hardware
from erasure.locking import alone_in
from erasure.models.diffusion import DiffusionModel
from erasure.models.latent_diffusion import LatentDiffusion
from erasure.models.load import load_model, read_presets
from erasure.registry import METHODS
from erasure.run import Run
from erasure_datasets.concept import Concept, ConceptKind, UnknownConceptError


@dataclass(frozen=True)
class Result:
    """A finished erasure: the edited model in float32, the edit, and the folder that holds it."""

    model: LatentDiffusion
    edit: Edit
    folder: Path


def find_concepts(
    model: DiffusionModel,
    names: Sequence[str],
    *,
    kind: str | None = None,
    anchor: str | None = None,
) -> list[Concept]:
    """Concepts by name: from the model's own list where it has one, else free text with a kind."""
    if not names:
        raise SettingError("concept must be given at least once.")
    found = []
    for name in names:
        try:
            if model.catalogue is not None:
                found.append(model.catalogue.concept(name, anchor))
            elif kind is None:
                raise SettingError(
                    f"kind must be given for {name!r}: one of {', '.join(get_args(ConceptKind))}."
                )
            else:
                found.append(Concept(name, kind, anchor=anchor or ""))  # type: ignore[arg-type]
        except (UnknownConceptError, ValueError) as error:
            raise error if isinstance(error, ErasureError) else SettingError(str(error)) from error
    if len({concept.name for concept in found}) < len(found):
        raise SettingError(f"concept names must differ; got {', '.join(names)}.")
    return found


def erase(
    model: str | LatentDiffusion, method: str, concepts: Sequence[str], *, out: Path | str,
    kind: str | None = None, anchor: str | None = None, seed: int = 0, quick: bool = False,
    report_to: str | None = None, config: Path | None = None, **settings: Value,
) -> Result:  # fmt: skip
    """Erase concepts and keep the edit under `out`; the same call resumes or returns what is there.

    `settings` are the method's own, and those of `Hardware`. A model that is handed over is left in
    the precision that these ask for. ErasureError (SettingError, RunError, ...) for anything the
    caller can mend; then nothing is half-written.
    """
    method_class = METHODS.get("diffusion", method)
    shared = {item.name for item in fields(Hardware)} & settings.keys()
    hardware = Hardware(**{name: settings.pop(name) for name in shared})  # type: ignore[arg-type]
    run = Run(Path(out), seed=seed, hardware=hardware, report_to=report_to)
    loaded = (
        load_model(model, config=config, device=run.device) if isinstance(model, str) else model
    )
    if loaded.originals:
        raise ModelError(f"{loaded.name} holds an edit already; undo it, or load the model afresh.")
    if loaded.sampling is not None:
        raise ModelError(
            f"{loaded.name} is a one-step generator; erase with sfd from the model it was made "
            f"from, with --generator {loaded.name}."
        )
    found = find_concepts(loaded, concepts, kind=kind, anchor=anchor)
    word = method.replace("_", "-")
    chosen, sources = resolve(
        method_class, given=settings, quick=quick, presets=read_presets(loaded.folder, word)
    )
    for name in ("batch_size", "retain_batch_size"):
        if hasattr(chosen, name):
            run.check_batch(name, getattr(chosen, name))
    record = {
        **record_of(run, word, loaded.name, found, chosen, sources),
        "config": str(config) if config else None,
        "quick": quick,
    }
    if run.begin(record):
        edit = Edit.load(run.folder)
        if edit.base != loaded.name:
            return Result(open_run(run.folder, device=run.device), edit, run.folder)
        edit.apply(loaded)
        return Result(loaded, edit, run.folder)
    with hardware.at_work(loaded):
        edit = kept_edit(run, lambda: chosen.erase(loaded, found, run))
    # a generator of the model was edited, or the model is in lower precision now
    if edit.base != loaded.name or run.low is not None:
        loaded = open_run(run.folder, device=run.device)
    return Result(loaded, edit, run.folder)


def kept_edit(run: Run, make: Callable[[], Edit]) -> Edit:
    """Make the edit and finish the run with it; a SettingError takes the run back.

    RunError, and the run stays, if another process is at work in its folder.
    """
    try:
        with alone_in(run.folder) if run.is_main else nullcontext():
            edit = make()
            if run.is_main:
                edit.save(run.folder)
            run.finish()
    except SettingError:
        run.withdraw()
        raise
    run.accelerator.wait_for_everyone()
    return edit


def record_of(
    run: Run, word: str, model: str, concepts: list[Concept], settings: object,
    sources: dict[str, Source],
) -> dict[str, object]:  # fmt: skip
    """What config.json says of every run, before it begins."""
    return {
        "command": shlex.join(sys.argv),
        "method": word,
        "model": model,
        "concepts": [concept.as_json() for concept in concepts],
        "settings": asdict(settings),  # type: ignore[call-overload]
        "sources": sources,
        "seed": run.seed,
        **{name: value for name, value in asdict(run.hardware).items() if name != "device"},
        "processes": run.accelerator.num_processes,
    }
