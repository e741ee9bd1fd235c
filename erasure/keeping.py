"""Make an edit in a run's folder, or find it there: what erasing and forgetting share."""

import hashlib
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from erasure.config import Source
from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.files.naming import checked_path
from erasure.files.storage import file_digest, folder_digest
from erasure.models.diffusion.load import load_model
from erasure.models.digest import digest_of
from erasure.models.editable import Editable
from erasure.opening import lasting_name
from erasure.registry import plugin_source
from erasure.training.run import Run
from erasure.training.run_folder import refuse_inside
from erasure_datasets.concept import Concept
from erasure_datasets.errors import DataError

# settings that may name a file or folder; of a folder that grows later, the part that is read
FILES = {
    "concepts": "", "generator": "", "images": "", "mask": "", "retain_prompts": "", "source": "",
    "trained": "slices", "weights": "",
}  # fmt: skip
OF_ANOTHER = ("after_settings", "then_settings")  # those of a method that works before or after
CONTENTS = "contents "  # how a folder's digest begins


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
) -> dict[str, object]:  # fmt: skip
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


def inputs(
    settings: Mapping[str, object], noted: Mapping[str, str] | None = None
) -> dict[str, str]:
    """A digest of each file or folder that a setting names, of its contents.

    `noted` are those of a run to compare with: of earlier versions' folders only names and sizes
    are told. SettingError for what cannot be read.
    """
    found = {}
    for name, text in _named_files(settings).items():
        place = checked_path(text, name).expanduser() / FILES[name.rpartition(".")[2]]
        is_old = not (noted or {}).get(name, CONTENTS).startswith(CONTENTS)
        try:
            if place.is_file():
                found[name] = file_digest(place)
            elif place.is_dir():
                found[name] = _sizes(place) if is_old else CONTENTS + folder_digest(place)
        except OSError as error:
            raise SettingError(f"{name} must be readable; {error}.") from error
    return found


def _named_files(settings: Mapping[str, object]) -> dict[str, str]:
    """What may be a file's or a folder's name, by its setting; of forget, `images` is a number."""
    values = {name: settings[name] for name in sorted(FILES.keys() & settings.keys())}
    for name in OF_ANOTHER:
        for part in str(settings.get(name, "")).split(","):
            key, _, value = (word.strip() for word in part.partition("="))
            if key in FILES:
                values[f"{name}.{key}"] = value
    return {name: text for name, text in values.items() if text and isinstance(text, str)}


def _sizes(place: Path) -> str:
    files = (file for file in place.rglob("*") if file.is_file())
    listed = sorted((str(file.relative_to(place)), file.stat().st_size) for file in files)
    return hashlib.sha256(repr(listed).encode()).hexdigest()
