"""What an attack's folder says of it: which attack it is, and the cases it is done with."""

from pathlib import Path
from typing import Any, TypedDict

import msgspec

from erasure.errors import RunError
from erasure.files.records import (
    UNREADABLE,
    AttackedCaseShape,
    AttackShape,
    parse_record,
    read_record,
)
from erasure.files.storage import append_line, atomic, write_json
from erasure.training.processes import launched
from evaluation.drawing.drawn import is_older

NEWER = ("edit", "files")  # what older records do not say
KEEPS = (".json", ".jsonl", ".safetensors")  # files in which an attack keeps what it found


class AskedShape(TypedDict):
    """attack.json: everything that decides what an attack does."""

    settings: dict[str, Any]
    concepts: list[str]


def finished(run: Path, word: str, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The attack's report, if it is there; RunError if it is another attack's or not whole."""
    file = run / "attacks" / f"{word}.json"
    if not file.is_file():
        return None
    remedy = "remove it and attack again"
    record: Any = read_record(file, AttackShape, remedy=remedy)
    try:
        msgspec.convert(record.get("asked"), AskedShape)
    except msgspec.ValidationError as error:
        raise RunError(f"{file} does not say what was asked ({error}); {remedy}.") from error
    _refuse_other(file, run, record["asked"], asked)
    names = [
        case["case"].get("name")
        for part in record.get("per_concept", {}).values()
        for case in part["cases"]
    ]
    if len(set(names)) < len(names) and "edit" not in record["asked"]:
        raise RunError(
            f"{file} is of an older version, which judged several concepts by one's pictures; "
            f"remove it, {file.with_suffix('')} and {run / 'images' / 'plain'}, and attack again."
        )
    return record


def claim(run: Path, word: str, asked: dict[str, Any]) -> None:
    """Mark the attack's folder as this attack's; RunError if it is another's."""
    file = run / "attacks" / word / "attack.json"
    if file.is_file():
        held: Any = read_record(file, AskedShape, remedy=f"remove {file.parent} and attack again")
        _refuse_other(file, run, held, asked)
    elif launched().is_main_process:
        write_json(file, asked)


def withdraw(run: Path, word: str) -> None:
    """Free the folder for another attack, if this one failed before it had anything to keep."""
    folder = run / "attacks" / word
    claim_file = folder / "attack.json"
    # pictures alone are drawn over; anything else is gone on with by whoever has the folder
    kept = any(file.suffix in KEEPS and file != claim_file for file in folder.rglob("*"))
    if launched().is_main_process and not kept:
        claim_file.unlink(missing_ok=True)


def note(folder: Path, outcome: dict[str, Any]) -> None:
    """Add a case's outcome to this process's file, on a line of its own whatever a kill left."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"outcomes-{launched().process_index}.jsonl"
    held = file.read_bytes() if file.is_file() else b""
    if held and not held.endswith(b"\n"):
        with atomic(file) as temporary:
            temporary.write_bytes(held[: held.rfind(b"\n") + 1])
    append_line(file, outcome)


def outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    """What every process noted, by the case's name; a line that a kill has cut off is left out."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("outcomes-*.jsonl")):
        try:
            lines = file.read_bytes().split(b"\n")
        except OSError as error:
            raise RunError(f"{file} cannot be read: {error.strerror or error}.") from error
        for number, line in enumerate(lines[:-1], 1):
            outcome: Any = _line(line, f"{file}, line {number},")
            if outcome is not None:
                found[outcome["case"]["name"]] = outcome
    return found


def _line(line: bytes, where: str) -> AttackedCaseShape | None:
    """An outcome, or None for a line that is no JSON; RunError for JSON of another kind."""
    try:
        msgspec.json.decode(line)
    except UNREADABLE:
        return None
    remedy = "remove the line, and its case is attacked again"
    outcome = parse_record(line, AttackedCaseShape, where, remedy=remedy)
    if not isinstance(outcome["case"].get("name"), str):
        raise RunError(f"{where} is not readable (it names no case); {remedy}.")
    return outcome


def _refuse_other(file: Path, run: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    if "edit" not in old and is_older(file, run):
        raise RunError(f"{file} is older than the run's edit; {_way_out(file)}.")
    old, new = ({**record["settings"], **record} for record in (old, new))
    for key in new:
        is_known = key in old or key not in NEWER
        if key != "settings" and is_known and old.get(key) != new[key]:
            raise RunError(
                f"{file} holds another attack: its {key} is {old.get(key)!r}, this one's is "
                f"{new[key]!r}; {_way_out(file)}."
            )


def _way_out(file: Path) -> str:
    place = file.parent if file.name == "attack.json" else file
    return f"remove {place} or attack a copy of the run"
