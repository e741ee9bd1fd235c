"""What a script's finished figures were made with, so that others are never shown as its own."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from erasure.files.records import read_record
from erasure.files.storage import write_json

RECORD = "asked.json"


def refuse_others(
    parser: argparse.ArgumentParser, asked: argparse.Namespace, words: Sequence[str]
) -> None:
    """End with one line and code 2 if OUT holds figures of other values of these options.

    The first call notes them in OUT/asked.json. They are those that decide a figure and stand
    neither in the place where it is kept nor in what is checked there. A folder that an older
    version wrote has no note, and is taken for what is asked now; so is one that holds no file yet.
    """
    file: Path = asked.out / RECORD
    told = {word: str(getattr(asked, word)) for word in words}
    is_kept = any(place.is_file() and place != file for place in asked.out.rglob("*"))
    held = read_record(file, dict[str, str]) if is_kept and file.is_file() else {}
    other = next((word for word in words if held.get(word, told[word]) != told[word]), None)
    if other is not None:
        parser.error(
            f"{asked.out} holds figures that were made with {other.replace('_', ' ')} "
            f"{held[other]}; got {told[other]}. Ask for the same, or name another --out."
        )
    if not told.items() <= held.items():
        asked.out.mkdir(parents=True, exist_ok=True)
        write_json(file, held | told)
