"""scores/NAME.json of a protocol that judges drawings: its name, and that none takes another's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erasure.errors import RunError
from erasure.files.naming import slug
from erasure.files.records import ScoresShape, read_record
from erasure.files.storage import write_json
from erasure.training.processes import launched
from evaluation.score import Score, plain

Scores = Mapping[str, Score]


class LabelsShape(ScoresShape):
    """A record with what was seen: [seed, place of the prompt, object seen, style seen]."""

    labels: list[tuple[int, int, int, int]]


def free_file(
    folder: Path, stamp: Mapping[str, Any], targets: Sequence[str], *, usual: Sequence[int],
    subset: object = None, is_own: bool = True,
) -> Path:  # fmt: skip
    """Where a record of this stamp goes: folder/scores/PROTOCOL.json, or with what else was asked.

    Other seeds than the usual ones give pocket-seeds-188.json, a part pocket-24-subset.json, and
    targets that are not the run's own (`is_own`) pocket-of_dog.json. RunError if scores of
    something else lie there.
    """
    words, seeds = [stamp["protocol"]], stamp["seeds"]
    if not is_own:
        words.append(of_others(targets))
    if set(seeds) != set(usual):
        words.append("seeds-" + "-".join(map(str, sorted(seeds))))
    if subset is not None:
        words += [str(subset), "subset"]
    file = folder / "scores" / f"{'-'.join(words)}.json"
    _refuse_another(file, stamp, targets)
    return file


def of_others(targets: Sequence[str]) -> str:
    """The part of a record's name that says which targets it is of, if not of the run's own."""
    return slug(f"of {' '.join(targets)}".replace("_", " "))


def _refuse_another(file: Path, stamp: Mapping[str, Any], targets: Sequence[str]) -> None:
    """RunError if the file holds scores of other targets, or of another stamp but for versions."""
    if not file.is_file():
        return
    held = read_record(file, ScoresShape, remedy="move it away and judge again")
    there, here = {**held.get("stamp", {})}, dict(stamp)
    there["targets"], here["targets"] = sorted(held.get("per_concept", {})), sorted(targets)
    for key in there.keys() & here.keys() - {"versions"}:
        if there[key] != here[key]:
            words = (
                ", ".join(map(str, v)) if isinstance(v, list) else v
                for v in (there[key], here[key])
            )
            one, other = (word or "none" for word in words)
            raise RunError(
                f"{file} has scores with {key} {one}, not {other}; move it away to judge otherwise."
            )


def write_record(
    file: Path, protocol: str, scores: Scores, per_concept: Mapping[str, Scores], baseline: Scores,
    wanted: Mapping[str, str], **more: object,
) -> dict[str, Any]:  # fmt: skip
    """Write the record from the main process, and return it.

    `wanted` says of each score that may be missing why it is; those that are, are noted as
    `left_out`.
    """
    record = {
        "protocol": protocol,
        "scores": plain(scores),
        "per_concept": {target: plain(own) for target, own in per_concept.items()},
        "baseline": plain(baseline),
        "left_out": {key: why for key, why in wanted.items() if key not in scores},
        **more,
    }
    if launched().is_main_process:
        write_json(file, record)
    return record
