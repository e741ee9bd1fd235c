"""What an attack's folder says of it: which attack it is, and the cases it is done with."""

import json
from pathlib import Path
from typing import Any

from erasure.errors import RunError
from erasure.processes import launched
from erasure.storage import append_line, read_lines, write_json


def is_finished(file: Path, asked: dict[str, Any]) -> bool:
    """Whether the report is there; RunError if it is another attack's."""
    if not file.is_file():
        return False
    _refuse_other(file, json.loads(file.read_text())["asked"], asked)
    return True


def claim(file: Path, asked: dict[str, Any]) -> None:
    """Mark the attack's folder as this attack's; RunError if it is another's."""
    if file.is_file():
        _refuse_other(file, json.loads(file.read_text()), asked)
    elif launched().is_main_process:
        write_json(file, asked)


def note(folder: Path, outcome: dict[str, Any]) -> None:
    """Add a case's outcome to this process's file."""
    folder.mkdir(parents=True, exist_ok=True)
    append_line(folder / f"outcomes-{launched().process_index}.jsonl", outcome)


def outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    """What every process noted, by the case's name; a line that a kill has cut off is left out."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(folder.glob("outcomes-*.jsonl")):
        found |= {outcome["case"]["name"]: outcome for outcome in read_lines(file)}
    return found


def _refuse_other(file: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    old, new = ({**record["settings"], **record} for record in (old, new))
    for key in new:
        if key != "settings" and old.get(key) != new[key]:
            raise RunError(
                f"{file} holds another attack: its {key} is {old.get(key)!r}, this one's is "
                f"{new[key]!r}; remove {file.parent if file.name == 'attack.json' else file} "
                "or attack a copy of the run."
            )
