"""Erase concepts from a model: resolve the settings, run the method, keep the result."""

import hashlib
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from erasure.config import Source, Value, nearest, refuse_without_effect, resolve
from erasure.edit import Edit
from erasure.errors import ErasureError, ModelError, SettingError
from erasure.files.naming import checked_path
from erasure.files.storage import file_digest
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.load import load_model, read_presets
from erasure.models.diffusion.model import DiffusionModel
from erasure.models.digest import digest_of
from erasure.models.editable import Editable
from erasure.opening import lasting_name, open_run
from erasure.registry import METHODS, plugin_source
from erasure.training.hardware import Hardware
from erasure.training.run import Run
from erasure.training.run_folder import refuse_inside
from erasure_datasets.concept import (
    USER_KINDS,
    Catalogue,
    Concept,
    UnknownConceptError,
    mentions,
    retain_prompts,
)  # fmt: skip
from erasure_datasets.errors import DataError

FILES = {"images", "mask", "retain_prompts", "source"}  # settings that may name a file or folder


@dataclass(frozen=True)
class Result:
    """A finished erasure: the edited model in float32, the edit, and the folder that holds it."""

    model: LatentDiffusion
    edit: Edit
    folder: Path


def find_concepts(
    model: DiffusionModel,
    names: str | Sequence[str],
    *,
    kind: str | Sequence[str] | None = None,
    anchor: str | Sequence[str] | None = None,
) -> list[Concept]:
    """Concepts by name: from the model's own list where it has one, else free text with a kind.

    `kind` and `anchor` are one for all, or one for each name in turn. What is drawn instead of a
    concept is nothing that is erased with it: default anchors pass over such names, and given ones
    are refused. SettingError, too, for names that differ in case, "_", "-" or spaces alone.
    """
    names = _texts("concept", names)
    if not names:
        raise SettingError("concept must be given at least once.")
    twice = next((name for i, name in enumerate(names) if _is_among(name, names[:i])), None)
    if twice is not None:
        raise SettingError(f"concept names must differ; got {', '.join(names)}.")
    found = [
        _concept(model, *parts)
        for parts in zip(
            names, _paired("kind", kind, names), _paired("anchor", anchor, names), strict=True
        )
    ]
    gone = {concept.name for concept in found}
    if model.catalogue is not None and anchor is None:
        found = [_with_kept_anchor(concept, model.catalogue, gone) for concept in found]
    for concept in found:
        lost = next((name for name in gone if mentions(concept.anchor, name)), None)
        if concept.anchor and lost is not None:
            raise SettingError(
                f"anchor of {concept.name} must be something that stays; got "
                f"{concept.anchor!r}, and {lost} is to be erased."
            )
        if concept.anchor and model.catalogue is not None:
            _refuse_strange_anchor(concept, model.catalogue, model.name)
    return found


def _refuse_strange_anchor(concept: Concept, catalogue: Catalogue, name: str) -> None:
    """SettingError for an anchor that is not in the model's list, or there as another kind."""
    kinds = {"object": catalogue.objects, "style": catalogue.styles}
    own = kinds.pop(concept.kind)
    if concept.anchor in own:
        return
    if any(concept.anchor in names for names in kinds.values()):
        raise SettingError(
            f"anchor of {concept.name} must be of its own kind, {concept.kind}; "
            f"got {concept.anchor!r}. Known: {', '.join(own)}."
        )
    raise SettingError(
        f"anchor of {concept.name} must be one of {name}'s list, or empty for none; "
        f"got {concept.anchor!r}. {nearest(concept.anchor, own)}"
    )


def _texts(what: str, given: object) -> list[str]:
    """One text or several, as a list; SettingError for what is none."""
    values = (
        [given] if isinstance(given, (str, bytes)) or not isinstance(given, Iterable) else given
    )
    found = []
    for value in values:
        if not isinstance(value, str):
            raise SettingError(f"{what} must be a text, or a list of texts; got {value!r}.")
        found.append(value)
    return found


def _concept(model: DiffusionModel, name: str, kind: str | None, anchor: str | None) -> Concept:
    try:
        if model.catalogue is not None:
            found = model.catalogue.concept(name, anchor)
            if kind is not None and kind != found.kind:
                raise SettingError(f"kind of {found.name} is {found.kind}; got {kind!r}.")
            return found
        if kind not in USER_KINDS:
            raise SettingError(
                f"kind must be given for {name!r}: one of {', '.join(USER_KINDS)}; got {kind}."
            )
        return Concept(name, kind, anchor=anchor or "")  # type: ignore[arg-type]
    except UnknownConceptError as error:
        raise SettingError(
            f"{error} {model.name} has a list of its concepts, so that no other text is taken."
        ) from error
    except ValueError as error:
        raise error if isinstance(error, ErasureError) else SettingError(str(error)) from error


def _paired(
    what: str, given: str | Sequence[str] | None, names: Sequence[str]
) -> Sequence[str | None]:
    """One value per name: the only one for all, or each its own."""
    values = _texts(what, [] if given is None else given)
    if len(values) not in (0, 1, len(names)):
        raise SettingError(
            f"{what} must be given once, or once for each of the {len(names)} concepts in their "
            f"order; got {len(values)}."
        )
    return values if len(values) == len(names) else [values[0] if values else None] * len(names)


def _with_kept_anchor(concept: Concept, catalogue: Catalogue, gone: set[str]) -> Concept:
    """An object's default anchor is the next object that stays."""
    if concept.anchor not in gone:
        return concept
    objects = catalogue.objects
    first = objects.index(concept.name) + 1
    left = [name for name in (*objects[first:], *objects[:first]) if name not in gone]
    return replace(concept, anchor=left[0] if left else "")


def _is_among(name: str, others: Sequence[str]) -> bool:
    def plain(text: str) -> str:
        return "".join(letter for letter in text.casefold() if letter not in "_- ")

    def is_same(other: str) -> bool:
        return plain(name) == plain(other) or (mentions(name, other) and mentions(other, name))

    return any(map(is_same, others))


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
    if edit.base != _base_of(loaded)[0] or (is_new and run.low is not None):
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
    if loaded.sampling is not None:
        raise ModelError(
            f"{loaded.name} is a one-step generator; erase with sfd from the model it was made "
            f"from, with --generator {loaded.name}."
        )
    return loaded


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


def _base_of(model: Editable) -> tuple[str, str | None]:
    """A model's name and, apart, its revision."""
    if Path(model.name).exists():
        return lasting_name(model.name), None
    name, _, revision = model.name.partition("@")
    return name, revision or None


def record_of(
    run: Run, word: str, model: Editable, concepts: list[Concept], settings: object,
    sources: dict[str, Source],
) -> dict[str, object]:  # fmt: skip
    """What config.json says of every run, before it begins."""
    name, revision = _base_of(model)
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
        "sources": sources,
        "seed": run.seed,
        **{name: value for name, value in asdict(run.hardware).items() if name != "device"},
        "processes": run.accelerator.num_processes,
    }


def inputs(settings: Mapping[str, object]) -> dict[str, str]:
    """A digest of each file or folder that a setting names; a folder's is of names and sizes."""
    found = {}
    for name in FILES & settings.keys():
        text = settings[name]
        if not text or not isinstance(text, str):  # forget's images are a number
            continue
        place = checked_path(text, name).expanduser()
        if place.is_file():
            found[name] = file_digest(place)
        elif place.is_dir():
            files = (file for file in place.rglob("*") if file.is_file())
            listed = sorted((str(file.relative_to(place)), file.stat().st_size) for file in files)
            found[name] = hashlib.sha256(repr(listed).encode()).hexdigest()
    return found
