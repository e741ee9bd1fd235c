"""Which tensors two models, runs or exports differ in, and how much."""

from pathlib import Path

from erasure.comparing.differences import Difference, checked_ending, difference
from erasure.comparing.sides import open_side
from erasure.errors import SettingError
from erasure.files.naming import checked_path


def diff(
    a: Path | str, b: Path | str, *, config: Path | str | None = None,
    base: Path | str | None = None, out: Path | str | None = None,
) -> Difference:  # fmt: skip
    """Compare two models tensor by tensor, in float64; `out` is an optional .json, .csv or .md.

    Each is a model as `load_model` or the classifiers' opens it, a run (its model, with the edit),
    or an export of any form. `config` is the folder of configs of a single file that has none
    beside it; `base` the model that a delta or adapters belong to, where the run does not say it
    or it has moved. Adapters without a base are compared with adapters, as what they add.
    Both sides are held in memory in float32.

    ModelError, EditError or SettingError for what cannot be read. That two models differ, in
    family even, is no error.
    """
    file = None if out is None else checked_ending(checked_path(out, "out"))
    place = None if config is None else checked_path(config, "config")
    own = None if base is None else str(checked_path(base, "base"))
    named = (str(a), str(b), own or "")
    if place is not None and not any(name.endswith(".safetensors") for name in named):
        raise SettingError("config is of a single .safetensors file, which none of these is.")
    first, second = (open_side(str(side), config=place, base=own) for side in (a, b))
    if first.is_change != second.is_change:
        bare = first if first.is_change else second
        raise SettingError(
            f"{bare.name} holds {bare.family} alone; base must name the model that they are added "
            "to, so that they can be compared with a model."
        )
    if first.is_change and first.family != second.family:
        raise SettingError(
            f"{first.name} holds {first.family} and {second.name} {second.family}; base must name "
            "the model that both are added to."
        )
    found = difference(first, second)
    if file is not None:
        found.save(file)
    return found
