"""Erase concepts from a model: resolve the settings, run the method, keep the result."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from erasure.concepts import find_concepts, unnamed
from erasure.config import Origin, Source, Value, refuse_without_effect, resolve
from erasure.edit import Edit
from erasure.errors import ModelError, SettingError
from erasure.exports.pipelines import plain_pipeline
from erasure.files.naming import checked_path
from erasure.keeping import base_of, kept_edit, record_of
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.load import load_model, read_presets
from erasure.models.diffusion.one_step import OneStep
from erasure.opening import lasting_name, open_run
from erasure.registry import METHODS
from erasure.repeating import refuse_changed
from erasure.stacking import Stack, holds_run, open_erased
from erasure.training.hardware import Hardware
from erasure.training.rehearsal import Rehearsal
from erasure.training.run import Run
from erasure.training.samples import Samples
from erasure.training.trackers import refuse_tracker
from erasure_datasets.concept import Concept, retain_prompts
from erasure_datasets.errors import DataWarning


@dataclass(frozen=True)
class Result:
    """A finished erasure: the edited model in float32, the edit, and the folder that holds it."""

    model: LatentDiffusion
    edit: Edit
    folder: Path

    def pipeline(self) -> DiffusionPipeline:
        """The edited model as a plain pipeline of diffusers: see `plain_pipeline`."""
        return plain_pipeline(self.model)


@dataclass(frozen=True)
class Plan:
    """An erasure that is checked and has not begun: by what, of what, and what config.json says."""

    run: Run
    model: LatentDiffusion
    below: Stack | None  # the run that is erased from further
    concepts: list[Concept]
    method: Any
    record: dict[str, Any]

    def make(self, method: Any) -> Edit:
        """Let a method, which is the plan's own or a shorter one, erase from the model."""
        file = getattr(method, "retain_prompts", "")
        if file:
            kept = retain_prompts(self.concepts, self.model.catalogue, file)
            self.model.warn_beyond(kept, f"prompts of {file}")
        once = partial(method.erase, self.model, self.concepts, self.run)
        with self.run.hardware.at_work(self.model):
            return self.below.further(once, self.run.low) if self.below else once()


def erase(
    model: str | Path | LatentDiffusion | DiffusionPipeline, method: str,
    concepts: str | Sequence[str] | Path = (), *, out: Path | str,
    kind: str | Sequence[str] | None = None, anchor: str | Sequence[str] | None = None,
    template: str | Sequence[str] | None = None, contexts: str | None = None, seed: int = 0,
    quick: bool = False, report_to: str | None = None, sample_every: int = 0,
    config: Path | str | None = None, revision: str | None = None, base: Path | str | None = None,
    origins: Mapping[str, Origin] | None = None, repeats: Path | str | None = None,
    **settings: Value,
) -> Result:  # fmt: skip
    """Erase concepts and keep the edit under `out`; the same call resumes or returns what is there.

    `model` is what `load_model` takes or gives, or a run's folder. From a run it is erased further:
    the edit is of the run's base and tells what all of them took. `base` says where that base is
    now, if it has moved. `concepts` may be a Path, a file of them (see `read_concepts`), and left
    out where pictures say what to erase (`images`, adapt-unlearn); a name is for records and
    judging alone there. `template` are the prompts that name a concept of free text, with {name} or
    {a name} in each; `contexts` are names of the model's list, with commas, beside which alone the
    training prompts name the concepts. `settings` are the method's own, and those of `Hardware`;
    `revision` is a Hub id's. A model that is handed over is left in the precision that these ask
    for; a pipeline of diffusers stays as it is. Every `sample_every` steps the tracker `report_to`
    is shown pictures. `origins` says of given values, for the record, where they came from if not
    from the caller, and `repeats` which run's they are. ErasureError (SettingError, RunError, ...)
    for anything the caller can mend; then nothing is half-written.
    """
    plan = planned(
        model, method, concepts, out=out, kind=kind, anchor=anchor, template=template,
        contexts=contexts, seed=seed, quick=quick, report_to=report_to, sample_every=sample_every,
        config=config, revision=revision, base=base, origins=origins, repeats=repeats,
        rehearsal=None, **settings,
    )  # fmt: skip
    run = plan.run
    edit, is_new = kept_edit(run, plan.record, lambda: plan.make(plan.method))
    return Result(_edited(plan.model, plan.below, edit, is_new, run), edit, run.folder)


def planned(
    model: str | Path | LatentDiffusion | DiffusionPipeline, method: str,
    concepts: str | Sequence[str] | Path = (), *, out: Path | str,
    kind: str | Sequence[str] | None = None, anchor: str | Sequence[str] | None = None,
    template: str | Sequence[str] | None = None, contexts: str | None = None, seed: int = 0,
    quick: bool = False, report_to: str | None = None, sample_every: int = 0,
    config: Path | str | None = None, revision: str | None = None, base: Path | str | None = None,
    origins: Mapping[str, Origin] | None = None, repeats: Path | str | None = None,
    rehearsal: Rehearsal | None = None, **settings: Value,
) -> Plan:  # fmt: skip
    """As `erase` up to where it begins; a `rehearsal` is for a run that is only tried."""
    method_class, origins = METHODS.get("diffusion", method), origins or {}
    shared = {item.name for item in fields(Hardware)} & settings.keys()
    hardware = Hardware(**{name: settings.pop(name) for name in shared})  # type: ignore[arg-type]
    refuse_tracker(report_to, sample_every=sample_every)
    run = Run(
        checked_path(out, "out"), seed=seed, hardware=hardware, report_to=report_to,
        rehearsal=rehearsal,
    )  # fmt: skip
    asked = {item.name: (getattr(hardware, item.name), item.default) for item in fields(Hardware)}
    asked |= {"seed": (seed, 0), "sample_every": (sample_every, 0), "anchor": (anchor, None)}
    asked |= {"contexts": (contexts, None), "template": (template, None)}
    refuse_without_effect(method_class, method, asked)
    place = None if config is None else Path(lasting_name(str(config), "config"))
    loaded, below = _opened(model, place, revision, base, run)
    found = _sought(
        loaded, below, method_class, concepts, kind=kind, anchor=anchor, template=template,
        contexts=contexts,
    )  # fmt: skip
    word = method.replace("_", "-")
    chosen, sources = resolve(
        method_class, given=settings, quick=quick, presets=read_presets(loaded.folder, word),
        origins=origins,
    )  # fmt: skip
    _warn_of_shared_steps(word, chosen, sources, len(found))
    for name in ("batch_size", "retain_batch_size"):
        if hasattr(chosen, name):
            run.check_batch(name, getattr(chosen, name))
    told = below.told() if below else {"onto": None}
    if below:
        below.refuse(word, chosen)
    if getattr(chosen, "anew", False):
        if below is None:
            raise SettingError(f"anew is for a run to erase further from; {model} is no run.")
        found, below = below.anew(word, chosen, found), None
    record = {
        **record_of(run, word, loaded, found, chosen, {**origins, **sources}),
        "config": str(place) if place else None,
        "quick": quick,
        **told,
    }
    if repeats is not None:
        record["repeats"] = str(repeats)
        refuse_changed(Path(repeats), record)
    if sample_every:
        kept = retain_prompts(found, loaded.catalogue)
        prompts = [*(concept.prompts()[0] for concept in found), *kept[:1]]
        run.watcher = Samples(loaded, prompts, every=sample_every, run=run)
    return Plan(run, loaded, below, found, chosen, record)


def _sought(
    model: LatentDiffusion, below: Stack | None, method_class: Any,
    concepts: str | Sequence[str] | Path, *, kind: str | Sequence[str] | None, **asked: Any,
) -> list[Concept]:  # fmt: skip
    """The concepts that the method has to take, with those below that are drawn as one of them."""
    if getattr(method_class, "needs_no_name", False) and not concepts:
        found = [unnamed(kind)]
    else:
        is_drawn = "anchor" not in getattr(method_class, "without_effect", ())
        found = find_concepts(model, concepts, kind=kind, is_drawn=is_drawn, **asked)
    found = below.concepts(found) if below else found
    for concept in found:
        model.check_window([*concept.prompts(), *concept.anchor_prompts()])
    return found


def _warn_of_shared_steps(
    word: str, method: Any, sources: Mapping[str, Source], count: int
) -> None:
    """A warning where several concepts share steps that were meant for one, and nobody chose."""
    steps, is_of_each = getattr(method, "steps", 0), getattr(method, "steps_per_concept", False)
    if count > 1 and steps and not is_of_each and sources["steps"] in ("default", "model preset"):
        warnings.warn(
            f"the {count} concepts share {word}'s {steps} steps, which are meant for one, and some "
            f"may stay; --steps {steps * count} would give each as many.",
            DataWarning,
            stacklevel=4,
        )


def _edited(
    loaded: LatentDiffusion, below: Stack | None, edit: Edit, is_new: bool, run: Run
) -> LatentDiffusion:
    """The model with the edit in it, in float32, which remembers its base."""
    is_generator = edit.base != base_of(loaded)[0]  # one of the model was edited
    if is_new and not is_generator and run.low is None:
        return loaded
    if is_generator or (is_new and loaded.source is None):
        return open_run(run.folder, device=run.device)
    if is_new:
        loaded = load_model(loaded.source, device=run.device)
    elif below:
        below.edit.undo(loaded)
    edit.apply(loaded)
    return loaded


def _opened(
    model: str | Path | LatentDiffusion | DiffusionPipeline, config: Path | None,
    revision: str | None, base: Path | str | None, run: Run,
) -> tuple[LatentDiffusion, Stack | None]:  # fmt: skip
    """The model to erase from, on the run's device, and the run that it is of, if it is one's.

    ModelError for a model that nothing can be erased from.
    """
    named = lasting_name(str(model)) if isinstance(model, (str, Path)) else model
    place = Path(named) if isinstance(named, str) else Path()
    if place.is_absolute() and holds_run(place):
        for what, given in (("config", config), ("revision", revision)):
            if given is not None:
                raise SettingError(f"{what} is what the run {place} says of itself; leave it out.")
        if run.folder.resolve() == place.resolve():
            raise SettingError(
                f"out must be another folder than {place}, the run to erase further from, which "
                "stays as it is."
            )
        below = open_erased(place, device=run.device, base=base)
        return below.model, below
    if base is not None:
        raise SettingError(f"base is that of a run to erase further from; {model} is no run.")
    return _unedited(named, config, revision, run), None


def _unedited(
    model: str | LatentDiffusion | DiffusionPipeline, config: Path | None, revision: str | None,
    run: Run,
) -> LatentDiffusion:  # fmt: skip
    if isinstance(model, str | DiffusionPipeline):
        loaded = load_model(model, config=config, revision=revision, device=run.device)
    elif isinstance(model, LatentDiffusion):
        loaded = model
        if loaded.device != run.device and loaded.device.type != run.device.type:
            raise SettingError(
                f"device of {loaded.name} must be the run's, {run.device}; it is on "
                f"{loaded.device}. Name the model instead, or give device={loaded.device.type!r}."
            )
    else:
        raise SettingError(
            "model must be a name, a folder, a model that erasure.load_model opened or a pipeline "
            f"of diffusers; got a {type(model).__name__}."
        )
    if loaded.originals:
        raise ModelError(
            f"{loaded.name} holds an edit already; undo it, or name the folder of its run to erase "
            "further."
        )
    if isinstance(loaded, OneStep):
        raise ModelError(
            f"{loaded.name} is a one-step generator; erase with sfd from the model it was made "
            f"from, with --generator {loaded.name}."
        )
    return loaded
