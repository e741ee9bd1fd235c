"""`erasure evaluate`: a run's folder, an un-erased model, or others' images, under a protocol."""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erasure.config import Value, module_names, nearest, resolve
from erasure.edit import Edit
from erasure.erasing import find_concepts
from erasure.errors import SettingError
from erasure.models.diffusion import DiffusionModel, Sampling
from erasure.models.load import load_model
from erasure.opening import open_run
from erasure.processes import own_device
from evaluation.pictures import before_and_after
from evaluation.protocol_settings import UnlearnCanvasSettings
from evaluation.protocols import pocket, unlearncanvas
from evaluation.scene import is_pocket

FOR_CLASSES = ("class-forgetting", "continual")


def protocols() -> list[str]:
    """Every protocol's name."""
    return module_names(Path(__file__).parent / "protocols")


def evaluate(
    run: Path | None = None, *, model: str | None = None, images: Path | None = None,
    out: Path | None = None, protocol: str | None = None, subset: int | str | None = None,
    seeds: Sequence[int] | None = None, concepts: Sequence[str] | None = None,
    reference: Path | None = None, **settings: Value,
) -> dict[str, Any]:  # fmt: skip
    """Score a run against its un-erased model; or an un-erased `model`, or a folder of `images`.

    The latter two write into `out`. The protocol is `pocket` on models with pocket's concepts, else
    `unlearncanvas`, whose `settings` are UnlearnCanvasSettings' fields; for a run that forgets
    classes it is class-forgetting, or continual after several requests, where `concepts` are
    classes. `subset` is a number of images for pocket, "10x5" for unlearncanvas. `reference` is
    the run of a retrained classifier, or for unlearncanvas the un-erased model's own evaluation.

    The processes of a launch share the drawing, and the main one writes. Returns the record written
    to scores/PROTOCOL.json. Under `pocket` a run also gets images/before-after-CONCEPT.png.
    SettingError for arguments that clash.
    """
    tasks = _tasks(run)
    word = protocol and protocol.replace("_", "-")
    if word and word not in protocols():
        raise SettingError(f"there is no protocol {protocol!r}. {nearest(word, protocols())}")
    if sum(source is not None for source in (run, model, images)) != 1:
        raise SettingError(
            "evaluate takes either a run's folder or --model or --images, one and no other."
        )
    if tasks is not None:
        word = word or ("class-forgetting" if len(tasks) == 1 else "continual")
    if word and (tasks is None) == (word in FOR_CLASSES):
        raise SettingError(
            f"the protocol {word} is for runs of "
            f"`erasure {'forget' if tasks is None else 'erase'}`; {run or model or images} is none."
        )
    if tasks is not None:
        _refuse_settings(settings, word)
        module = importlib.import_module(f"evaluation.protocols.{str(word).replace('-', '_')}")
        return module.evaluate(run, classes=concepts, reference=reference)
    options = {"seeds": seeds, "subset": subset, "reference": reference, "settings": settings}
    if run is not None:
        return _evaluate_run(run, word, concepts, options)
    if out is None:
        raise SettingError("evaluate needs --out with --model and --images, for what it writes.")
    if images is not None:
        return _call(word or unlearncanvas.NAME, images, out, concepts or [], None, options)
    if concepts:
        raise SettingError("an un-erased model has no targets; leave --concept out.")
    untouched = load_model(str(model), device=own_device())
    return _call(word or _fitting(untouched), untouched, out, [], None, options)


def _evaluate_run(
    run: Path, word: str | None, concepts: Sequence[str] | None, options: dict[str, Any]
) -> dict[str, Any]:
    edit = Edit.load(run)
    edited = open_run(run, device=own_device())
    names = concepts or [concept.name for concept in edit.concepts]
    word = word or _fitting(edited)
    record = _call(word, edited, run, names, edit.sampling, options)
    if word == pocket.NAME:
        for target in find_concepts(edited, names):
            before_and_after(run, target, edited)
    return record


def _call(
    word: str, source: DiffusionModel | Path, folder: Path, names: Sequence[str],
    sampling: Sampling | None, options: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Evaluate a model, or a folder of images, under `pocket` or `unlearncanvas`."""
    given: dict[str, Any] = {"seeds": options["seeds"]} if options["seeds"] else {}
    if word == pocket.NAME:
        _refuse_settings(options["settings"], word)
        if options["reference"] is not None:
            raise SettingError("the protocol pocket takes no reference; it knows its own baseline.")
        given["subset"] = _count(options["subset"])
        if isinstance(source, Path):
            return pocket.evaluate_images(source, folder, concepts=names, **given)
        found = find_concepts(source, names) if names and is_pocket(source) else []
        return pocket.evaluate(source, folder, concepts=found, sampling=sampling, **given)
    settings, _ = resolve(UnlearnCanvasSettings, given=options["settings"], quick=False, presets={})
    given |= {
        "settings": settings,
        "subset": None if options["subset"] is None else str(options["subset"]),
        "reference": options["reference"],
    }
    if isinstance(source, Path):
        return unlearncanvas.evaluate_images(source, folder, concepts=names, **given)
    return unlearncanvas.evaluate(source, folder, concepts=names, sampling=sampling, **given)


def _fitting(model: DiffusionModel) -> str:
    return pocket.NAME if is_pocket(model) else unlearncanvas.NAME


def _refuse_settings(settings: dict[str, Value], word: str | None) -> None:
    if settings:
        raise SettingError(f"{next(iter(settings))} is a setting of unlearncanvas, not of {word}.")


def _count(subset: int | str | None) -> int | None:
    try:
        return None if subset is None else int(subset)
    except ValueError:
        raise SettingError(
            f"subset must be a number of images for the protocol pocket; got {subset!r}."
        ) from None


def _tasks(run: Path | None) -> list[list[str]] | None:
    """The requests of a run that forgets classes; None for any other."""
    file = run / "config.json" if run else None
    return json.loads(file.read_text()).get("tasks") if file and file.is_file() else None


def read_scores(run: Path, protocol: str) -> dict[str, Any]:
    """A finished evaluation's record; SettingError if there is none."""
    file = run / "scores" / f"{protocol}.json"
    if not file.is_file():
        raise SettingError(f"{run} has no scores under {protocol}; run `erasure evaluate {run}`.")
    return json.loads(file.read_text())
