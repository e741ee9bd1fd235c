"""`erasure erase METHOD --from RUN`: another run's settings on another concept."""

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from erasure.config import EARLIER, Value
from erasure.errors import RunError, SettingError
from erasure.training.run_folder import run_record

NAMED = ("model", "config", "revision", "seed", "quick")
HARDWARE = (
    "mixed_precision", "gradient_checkpointing", "gradient_accumulation", "use_8bit_adam",
    "enable_xformers_memory_efficient_attention", "allow_tf32", "channels_last", "compile",
)  # fmt: skip


def settings_of(run: Path, method: str, known: Set[str]) -> dict[str, Value]:
    """What a run of this method was given, by the names of erase's options, the `known`.

    The model, which may be a run that it erased further from, the seed, the method's settings and
    how it was computed; neither its concepts nor their kinds and anchors. RunError for a folder
    without a run, SettingError for a run of another method, of `forget`, or of which a setting is
    no more.
    """
    record = run_record(run)
    if "method" not in record or "settings" not in record:
        raise RunError(f"from must be a run's folder; {run} has no config.json of one.")
    if "tasks" in record:
        raise SettingError(
            f"from must be a run of `erasure erase`; {run} is one of `erasure forget`."
        )
    if record["method"] != method:
        raise SettingError(f"from must be a run of {method}; {run} was made by {record['method']}.")
    lost = next((name for name in record["settings"] if name not in known), None)
    if lost is not None:
        raise SettingError(f"{run} was made with {lost}, which {method} no longer has.")
    given = {name: record.get(name) for name in (*NAMED, *HARDWARE)}
    if record.get("onto"):  # the run below says the rest of itself
        given |= {"model": record["from"], "config": None, "revision": None}
    given = {name: value for name, value in given.items() if value is not None} | record["settings"]
    return {name: value for name, value in given.items() if value != ""}


def refuse_changed(run: Path, record: Mapping[str, Any]) -> None:
    """RunError if what a run read is not what it was any more, where this one's record repeats it.

    That is its base model, the edit that lies below, and the files that settings name.
    """
    old, repeated = run_record(run), record["sources"]
    if repeated.get("model") == EARLIER and old.get("base_digest") != record["base_digest"]:
        raise RunError(
            f"{record['model']} has other weights than when {run} was made on it; name the model "
            "that is meant with --model."
        )
    if repeated.get("model") == EARLIER and old.get("onto") != record["onto"]:
        raise RunError(
            f"{old.get('from') or old['model']} holds another edit than when {run} erased further "
            "from it; name the run that is meant with --model."
        )
    then, now = old.get("inputs", {}), record["inputs"]
    for name in [name for name, origin in repeated.items() if origin == EARLIER]:
        if then.get(name) != now.get(name):
            raise RunError(
                f"{name} of {run}, {old['settings'][name]}, holds something else than it did then; "
                f"name the one that is meant with --{name.replace('_', '-')}."
            )
