"""Facts as a report gives them away: no paths of this machine's user."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erasure.exports.writing.publishing import public_name, without_paths

AS_THEY_ARE = ("folder", "name", "run", "pairs", "attacks")  # names, and places inside the run


def published(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Runs' `facts` with short names for paths; commands keep theirs, from here or from home."""
    return [
        {key: entry[key] if key in AS_THEY_ARE else without_paths(entry[key]) for key in entry}
        | {
            "model": public_name(entry["model"]),
            "command": command(entry["command"]),
            "attacks": {name: _attack(attack) for name, attack in entry["attacks"].items()},
        }
        for entry in found
    ]


def without_folder(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A run's facts without the folder, which only the page's pictures are read from."""
    return {key: value for key, value in entry.items() if key != "folder"}


def command(text: str) -> str:
    """A command line whose paths begin at the working directory, at home (~), or with their name.

    The program's own is its name.
    """
    try:
        words = shlex.split(text)
    except ValueError:  # a quote that nobody closed
        return str(without_paths(text))
    return re.sub(r"'(~/[\w./-]+)'", r"\1", shlex.join(_word(word) for word in words))


def _word(word: str) -> str:
    option, sign, value = word.partition("=")
    if sign and not option.startswith("/"):
        return option + sign + _word(value)
    path = Path(word)
    if not path.is_absolute():
        return word
    for root, start in ((Path.cwd(), Path()), (Path.home(), Path("~"))):
        if path != root and path.is_relative_to(root) and root != Path("/"):
            return str(start / path.relative_to(root))
    return path.name or word


def _attack(attack: Mapping[str, Any]) -> dict[str, Any]:
    return {key: attack[key] if key == "cases" else without_paths(attack[key]) for key in attack}
