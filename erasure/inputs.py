"""What a run read from files: a digest of each that a setting names, so that a change is seen."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from erasure.errors import SettingError
from erasure.files.naming import checked_path
from erasure.files.storage import file_digest, folder_digest
from erasure.models.built_in import DIFFUSION
from erasure_datasets.hub import HUB

# settings that may name a file or folder; of some folders what else lies there may change
FILES = {
    "concepts", "generator", "images", "mask", "retain_prompts", "source", "trained", "weights",
}  # fmt: skip
MODELS = {"generator", "weights"}
PARTS = {"trained": "slices"}
OF_ANOTHER = ("after_settings", "then_settings")  # those of a method that works before or after
CONTENTS = "contents "  # how a folder's digest begins


def inputs(
    settings: Mapping[str, object], noted: Mapping[str, str] | None = None
) -> dict[str, str]:
    """A digest of each file or folder that a setting names, of its contents.

    `noted` are those of a run to compare with: of earlier versions' folders only names and sizes
    are told. SettingError for what cannot be read.
    """
    found = {}
    for name, text in _named(settings).items():
        place = checked_path(text.removeprefix(HUB), name).expanduser() / PARTS.get(name, "")
        is_old = not (noted or {}).get(name, CONTENTS).startswith(CONTENTS)
        try:
            if place.is_file():
                found[name] = file_digest(place)
            elif place.is_dir():
                kinds = (".json", ".safetensors") if name in MODELS else ("",)
                found[name] = _sizes(place) if is_old else CONTENTS + folder_digest(place, kinds)
        except OSError as error:
            raise SettingError(f"{name} must be readable; {error}.") from error
    return found


def changed_inputs(record: Mapping[str, Any]) -> list[str]:
    """What a run's config.json, `record`, names and holds something else now.

    Beside settings these are the files of plug-ins, by their paths. What is no longer there may
    have been cleaned away: it is not among them.
    """
    then: dict[str, str] = record.get("inputs", {})
    plugins = {name: file_digest(Path(name)) for name in then if Path(name).is_file()}
    now = plugins | inputs({**record.get("settings", {}), **record.get("data", {})}, then)
    return [name for name, digest in then.items() if now.get(name, digest) != digest]


def _named(settings: Mapping[str, object]) -> dict[str, str]:
    """What may be a file's or a folder's name, by its setting; of forget, `images` is a number."""
    values = {name: settings[name] for name in sorted(FILES & settings.keys())}
    for name in OF_ANOTHER:
        for part in str(settings.get(name, "")).split(","):
            key, _, value = (word.strip() for word in part.partition("="))
            if key in FILES:
                values[f"{name}.{key}"] = value
    return {
        name: text
        for name, text in values.items()
        if text and isinstance(text, str) and not (name in MODELS and text in DIFFUSION)
    }


def _sizes(place: Path) -> str:
    files = (file for file in place.rglob("*") if file.is_file())
    listed = sorted((str(file.relative_to(place)), file.stat().st_size) for file in files)
    return hashlib.sha256(repr(listed).encode()).hexdigest()
