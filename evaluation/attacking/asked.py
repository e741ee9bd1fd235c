"""What an attack is asked: numbers, concepts and the files that its words name, each checked."""

import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from erasure.concepts import find_concepts
from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.files.naming import checked_path
from erasure.files.storage import file_digest
from erasure.models.diffusion.model import DiffusionModel
from erasure_datasets.concept import Concept

EVERY = 10**9  # more prompts than any file has
LARGEST_SEED = 2**53  # a thousand noise seeds lie above each


class OutOfTimeError(SettingError):
    """A budget that was used up before the first case."""


def check_numbers(prompts: int, seeds: Sequence[int], budget: float | None, seed: int) -> None:
    """SettingError for numbers that no attack can go by."""
    if prompts < 1:
        raise SettingError(f"prompts must be at least 1; got {prompts}.")
    for number in seeds:
        if not 0 <= number <= LARGEST_SEED:
            raise SettingError(f"seeds must be 0 to {LARGEST_SEED}; got {number}.")
    if not seeds or len(set(seeds)) < len(seeds):
        raise SettingError(f"seeds must be one or more, each given once; got {list(seeds)}.")
    if budget is not None and not 0 < budget < math.inf:
        raise SettingError(f"budget must be a number of seconds above 0; got {budget}.")
    if not -(2**63) <= seed < 2**63:
        raise SettingError(f"seed must be a whole number of 64 bits; got {seed}.")


def asked_prompts(given: int | str | Path) -> tuple[int, str]:
    """(how many at most, the file that they are in, or ""): of a number, a file or FILE:N."""
    text = str(given).strip()
    if text.lstrip("-").isdecimal():
        return int(text), ""
    file, colon, count = text.rpartition(":")
    if colon and count.isdecimal() and not Path(text).expanduser().exists():
        return int(count), str(checked_path(file, "prompts"))
    return EVERY, str(checked_path(text, "prompts"))


def asked_concepts(
    model: DiffusionModel, edit: Edit, asked: Sequence[str | Concept]
) -> list[Concept]:
    """By name: the run's own, else from the model's list; SettingError for any other.

    A Concept is one of the run that this one, of gold, stands beside: SettingError unless both have
    the same prompts for it.
    """
    own = {concept.name.casefold(): concept for concept in edit.concepts}
    names = [one if isinstance(one, str) else one.name for one in asked]
    found = []
    for name in names:
        if name.casefold() not in own and model.catalogue is None:
            raise SettingError(
                f"concept must be one that the run erased, where the model has no list of its own; "
                f"got {name!r}. Known: {', '.join(concept.name for concept in edit.concepts)}."
            )
        found.append(own.get(name.casefold()) or find_concepts(model, [name])[0])
    for one, concept in zip(asked, found, strict=True):
        if isinstance(one, Concept) and one.templates != concept.templates:
            theirs, ours = (", ".join(map(repr, c.prompts())) for c in (concept, one))
            raise SettingError(
                f"gold must have the run's own prompts for {one.name}, {ours}; it has {theirs}. "
                "Name its model instead, of which a run with them is made."
            )
    if len({concept.name for concept in found}) < len(found):
        raise SettingError(f"concept must be given once for each; got {', '.join(names)}.")
    return found


def _module_file(name: str) -> Path:
    """Where a module of Python lies; no file, for what is none."""
    try:
        found = importlib.util.find_spec(name) if name.replace(".", "").isidentifier() else None
    except (ImportError, ValueError):
        found = None
    return Path(found.origin) if found and found.origin else Path("/nonexistent")


def contents(criterion: str, settings: dict[str, Any]) -> dict[str, str]:
    """Digests of the files that a criterion or a setting names: their words stay, they may not."""
    whole = [word.strip() for word in criterion.split("+")]
    words = [*whole, *(word.partition("=")[2] for word in whole if "=" in word)]
    places = [Path(word.rpartition(":")[0]) for word in words if ".py:" in word]
    places += [_module_file(word.rpartition(":")[0]) for word in whole if ":" in word]
    places += [Path(word) for word in words if word and _is(Path.is_dir, word)]
    places += [Path(word.partition(":")[2]) for word in words if _is_file_behind(word)]
    texts = [value for value in settings.values() if isinstance(value, str) and value]
    places += [Path(text) for text in texts if _is(Path.exists, text)]
    files = [
        file
        for place in places
        for file in (sorted(place.iterdir()) if place.is_dir() else [place])
        if file.is_file()
    ]
    return {str(file): file_digest(file) for file in files}


def _is_file_behind(word: str) -> bool:
    """Whether a word is a model's name and a file of its weights: NAME:FILE."""
    file = word.partition(":")[2]
    return bool(file) and ".py:" not in word and _is(Path.is_file, file)


def _is(kind: Callable[[Path], bool], word: str) -> bool:
    """Whether a word is a place of this kind; a list of numbers may be too long for any."""
    try:
        return kind(Path(word))
    except OSError:
        return False
