"""`erasure evaluate`: a run's folder, an un-erased model, or others' images, under a protocol."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from erasure.concepts import refuse_unnamed
from erasure.config import Value
from erasure.errors import SettingError
from erasure.files.records import ScoresShape, read_record
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.model import DiffusionModel
from erasure.opening import open_edit
from erasure.registry import PROTOCOLS
from erasure.sample_requests import Samples
from erasure.training.processes import own_device
from erasure.training.run_folder import run_record
from erasure_datasets.concept import Concept
from erasure_datasets.unlearncanvas import OBJECTS, THEMES
from evaluation.drawing.pocket_plan import NAME as POCKET
from evaluation.drawing.pocket_plan import find_targets, is_pocket
from evaluation.pictures import before_and_after
from evaluation.protocols import Asked, Protocol
from evaluation.reports.comparing import lacking

BENCHMARK, ANY = "unlearncanvas", "prompts"  # for models that are not pocket's


def evaluate(
    run: Path | str | None = None, *, model: str | None = None, images: Path | str | None = None,
    out: Path | str | None = None, protocol: str | None = None, subset: int | str | None = None,
    seeds: Sequence[int] | None = None, concepts: Sequence[str] | None = None,
    reference: Path | str | None = None, base: Path | str | None = None,
    gold: Path | str | None = None, **settings: Value,
) -> dict[str, Any]:  # fmt: skip
    """Score a run against its un-erased model; or an un-erased `model`, or a folder of `images`.

    The latter two write into `out`, which must be new or such a folder. The protocol is `pocket` on
    models with pocket's concepts, `unlearncanvas` where that benchmark knows all that was erased,
    else `prompts`; `settings` are the fields of the protocol's own (UnlearnCanvasSettings,
    PromptsSettings, PocketSettings, CorrectiveSettings). For a run that forgets classes it is
    class-forgetting, or continual after several requests, where `concepts` are classes. `subset` is
    a number of images for pocket, "10x5" for unlearncanvas. `reference` is the run of a retrained
    classifier, or for unlearncanvas the un-erased model's own evaluation. `base` says where the
    run's base model is now, if it has moved; `gold`, for the protocol of that name, which model
    never knew the concepts: "pocket", a folder, or a run of `erase gold`.

    The processes of a launch share the drawing, and the main one writes. Returns the record written
    to scores/PROTOCOL.json; a part, other seeds and other concepts than the run's have names of
    their own. Under `pocket` a run also gets images/before-after-CONCEPT.png. SettingError for
    arguments that clash and for options that the protocol does not take, RunError if scores or
    images of something else lie there.
    """
    run, images, out, reference = (
        None if place is None else Path(place) for place in (run, images, out, reference)
    )
    found = _protocol(protocol) if protocol else None
    if sum(source is not None for source in (run, model, images)) != 1:
        raise SettingError(
            "evaluate takes either a run's folder or --model or --images, one and no other."
        )
    if seeds is not None and not seeds:
        raise SettingError("seeds must name at least one; got none.")
    tasks = _tasks(run) if run else None
    if tasks and found is None:
        found = _protocol("class-forgetting" if len(tasks) == 1 else "continual")
    if found and (found.judges == "classes") != bool(tasks):
        raise SettingError(
            f"the protocol {found.name} is for runs of "
            f"`erasure {'erase' if tasks else 'forget'}`; {run or model or images} is none."
        )
    asked = Asked(
        run or out or Path(), images=images, concepts=tuple(concepts or ()),
        is_own=run is None or not concepts, seeds=seeds,
        subset=None if subset is None else str(subset), reference=reference, gold=gold,
        settings=settings,
    )  # fmt: skip
    if found:
        _refuse_options(found, asked)
    if run is None:
        if base is not None:
            raise SettingError("base is a run's; name the model itself with --model.")
        return _evaluate_other(found, asked, model, out)
    asked = replace(asked, base=base)
    if found and found.judges == "classes":
        return found.evaluate(asked)
    return _evaluate_run(run, found, asked)


def _protocol(name: str) -> Protocol:
    return PROTOCOLS.get(name)()


def _evaluate_run(run: Path, found: Protocol | None, asked: Asked) -> dict[str, Any]:
    edited, edit = open_edit(run, device=own_device(), base=asked.base)
    if not asked.concepts:
        refuse_unnamed(run, edit.concepts)
    found = found or _fitting(edited, asked, edit.concepts)
    own = [concept.name for concept in edit.concepts]
    asked = replace(
        asked, model=edited, concepts=asked.concepts or own, erased=edit.concepts,
        sampling=edit.sampling,
    )  # fmt: skip
    record = found.evaluate(asked)
    if found.name == POCKET:
        targets = find_targets(asked.concepts)
        gone = [*targets, *edit.concepts]
        for target in targets:
            before_and_after(run, target, edited, erased=gone, sampling=edit.sampling)
    return record


def _evaluate_other(
    found: Protocol | None, asked: Asked, model: str | None, out: Path | None
) -> dict[str, Any]:
    """An un-erased model, or images of any tool."""
    if out is None:
        raise SettingError("evaluate needs --out with --model and --images, for what it writes.")
    _refuse_place(out)
    if asked.images is not None:
        found = found or _protocol(BENCHMARK)
        _refuse_options(found, asked)
        return found.evaluate(asked)
    if asked.concepts:
        raise SettingError("an un-erased model has no targets; leave --concept out.")
    unerased = load_model(str(model), device=own_device())
    return (found or _fitting(unerased, asked)).evaluate(replace(asked, model=unerased))


def _fitting(model: DiffusionModel, asked: Asked, concepts: Sequence[Concept] = ()) -> Protocol:
    """Pocket's own for its models; else the benchmark's where it knows all that was erased."""
    known = {*OBJECTS, *THEMES}
    is_benchmark = all(concept.name.replace(" ", "_") in known for concept in concepts)
    found = _protocol(POCKET if is_pocket(model) else BENCHMARK if is_benchmark else ANY)
    _refuse_options(found, asked)
    return found


def _refuse_options(found: Protocol, asked: Asked) -> None:
    """SettingError for the first option that was given and that the protocol does not take."""
    known = [item.name for item in fields(found.settings)] if found.settings else []
    strange = next((name for name in asked.settings if name not in known), None)
    if strange is not None:
        raise SettingError(
            f"{strange} is no setting of the protocol {found.name}; "
            f"it has {', '.join(known) or 'none'}."
        )
    given = {
        "seeds": asked.seeds, "subset": asked.subset, "reference": asked.reference,
        "gold": asked.gold,
    }  # fmt: skip
    for option, value in given.items():
        if value is not None and option not in found.takes:
            taken = ", ".join(sorted(found.takes)) or "none of these"
            raise SettingError(f"the protocol {found.name} takes no {option}; it takes {taken}.")


def _refuse_place(out: Path) -> None:
    """SettingError unless `out` is new, empty, or what `evaluate` itself wrote."""
    if (out / "edit.json").is_file():
        raise SettingError(f"out must not be a run, whose own scores lie there; got {out}.")
    if out.exists() and not out.is_dir():
        raise SettingError(f"out must be a folder; got the file {out}.")
    written = (out / "scores", out / "images")
    if out.is_dir() and any(out.iterdir()) and not any(place.is_dir() for place in written):
        raise SettingError(
            f"out must be a new folder, or one of an earlier evaluation; {out} holds other things."
        )


def _tasks(run: Path) -> list[list[str]] | None:
    """The requests of a run that forgets classes or samples; None for any other."""
    record = run_record(run)
    samples = Samples.recorded(record)
    return [[samples.title]] if samples else record.get("tasks")


def read_scores(run: Path, protocol: str) -> dict[str, Any]:
    """A finished evaluation's record by its file's stem; `pocket-subset` is a part of any size.

    SettingError if there is none, or several parts of which none is named.
    """
    folder = run / "scores"
    files = [folder / f"{protocol}.json"]
    if not files[0].is_file() and protocol.endswith("-subset"):
        files = sorted(folder.glob(f"{protocol.removesuffix('-subset')}-*-subset.json"))
    if len(files) > 1:
        names = ", ".join(file.stem for file in files)
        raise SettingError(f"{protocol} must be one of {names}: {run} has these.")
    if not files or not files[0].is_file():
        known = sorted(file.stem for file in folder.glob("*.json"))
        raise SettingError(lacking(run, protocol, known))
    return {**read_record(files[0], ScoresShape, remedy="remove it and judge again")}
