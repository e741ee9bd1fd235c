"""Erase concepts from a model: resolve the settings, run the method, keep the result."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from erasure.concepts import find_concepts
from erasure.config import Value, refuse_without_effect, resolve
from erasure.edit import Edit
from erasure.errors import ModelError, SettingError
from erasure.files.naming import checked_path
from erasure.keeping import base_of, kept_edit, record_of
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.load import load_model, read_presets
from erasure.models.diffusion.one_step import OneStep
from erasure.opening import lasting_name, open_run
from erasure.registry import METHODS
from erasure.training.hardware import Hardware
from erasure.training.run import Run
from erasure_datasets.concept import retain_prompts


@dataclass(frozen=True)
class Result:
    """A finished erasure: the edited model in float32, the edit, and the folder that holds it."""

    model: LatentDiffusion
    edit: Edit
    folder: Path


def erase(
    model: str | Path | LatentDiffusion, method: str, concepts: str | Sequence[str], *,
    out: Path | str, kind: str | Sequence[str] | None = None,
    anchor: str | Sequence[str] | None = None, seed: int = 0, quick: bool = False,
    report_to: str | None = None, config: Path | str | None = None, revision: str | None = None,
    **settings: Value,
) -> Result:  # fmt: skip
    """Erase concepts and keep the edit under `out`; the same call resumes or returns what is there.

    `settings` are the method's own, and those of `Hardware`. `revision` is a Hub id's. A model that
    is handed over is left in the precision that these ask for. ErasureError (SettingError,
    RunError, ...) for anything the caller can mend; then nothing is half-written.
    """
    method_class = METHODS.get("diffusion", method)
    shared = {item.name for item in fields(Hardware)} & settings.keys()
    hardware = Hardware(**{name: settings.pop(name) for name in shared})  # type: ignore[arg-type]
    run = Run(checked_path(out, "out"), seed=seed, hardware=hardware, report_to=report_to)
    asked = {item.name: (getattr(hardware, item.name), item.default) for item in fields(Hardware)}
    refuse_without_effect(method_class, method, {**asked, "seed": (seed, 0)})
    place = None if config is None else Path(lasting_name(str(config), "config"))
    loaded = _opened(model, place, revision, run)
    found = find_concepts(loaded, concepts, kind=kind, anchor=anchor)
    for concept in found:
        loaded.check_window([*concept.prompts(), *concept.anchor_prompts()])
    word = method.replace("_", "-")
    chosen, sources = resolve(
        method_class, given=settings, quick=quick, presets=read_presets(loaded.folder, word)
    )
    for name in ("batch_size", "retain_batch_size"):
        if hasattr(chosen, name):
            run.check_batch(name, getattr(chosen, name))
    record = {
        **record_of(run, word, loaded, found, chosen, sources),
        "config": str(place) if place else None,
        "quick": quick,
    }

    def make() -> Edit:
        file = getattr(chosen, "retain_prompts", "")
        if file:
            kept = retain_prompts(found, loaded.catalogue, Path(file))
            loaded.warn_beyond(kept, f"prompts of {file}")
        with hardware.at_work(loaded):
            return chosen.erase(loaded, found, run)

    edit, is_new = kept_edit(run, record, make)
    # a generator of the model was edited, or the model is in lower precision now
    if edit.base != base_of(loaded)[0] or (is_new and run.low is not None):
        return Result(open_run(run.folder, device=run.device), edit, run.folder)
    if not is_new:
        edit.apply(loaded)
    return Result(loaded, edit, run.folder)


def _opened(
    model: str | Path | LatentDiffusion, config: Path | None, revision: str | None, run: Run
) -> LatentDiffusion:
    """The model to erase from, on the run's device; ModelError for one that cannot be."""
    if isinstance(model, (str, Path)):
        loaded = load_model(
            lasting_name(str(model)), config=config, revision=revision, device=run.device
        )
    elif isinstance(model, LatentDiffusion):
        loaded = model
        if loaded.device != run.device and loaded.device.type != run.device.type:
            raise SettingError(
                f"device of {loaded.name} must be the run's, {run.device}; it is on "
                f"{loaded.device}. Name the model instead, or give device={loaded.device.type!r}."
            )
    else:
        raise SettingError(
            "model must be a name, a folder or a model that erasure.load_model opened; "
            f"got a {type(model).__name__}."
        )
    if loaded.originals:
        raise ModelError(f"{loaded.name} holds an edit already; undo it, or load the model afresh.")
    if isinstance(loaded, OneStep):
        raise ModelError(
            f"{loaded.name} is a one-step generator; erase with sfd from the model it was made "
            f"from, with --generator {loaded.name}."
        )
    return loaded
