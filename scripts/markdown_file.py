"""Where a script's table goes beside the terminal: a file of the documentation.

What is written ends with the command and the machine, without which a figure says nothing.
"""

import argparse
import platform
import shlex
import sys
from pathlib import Path

import torch

from erasure.files.storage import atomic


def add_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE",
        help="write the table into this file, too, with the command and the machine",
    )  # fmt: skip


def write(file: Path | None, text: str) -> None:
    """The table with its last line, whole or not at all; nothing without a file."""
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as temporary:
        temporary.write_text(f"{text.strip()}\n\n`{command(sys.argv)}`, {machine()}.\n")


def command(words: list[str]) -> str:
    """The command line as it would be typed again, without the option itself."""
    rest, left = [], iter(words)
    for word in left:
        if word == "--markdown":
            next(left, None)
        elif not word.startswith("--markdown="):
            rest.append(word)
    return shlex.join(["python", *rest])


def machine() -> str:
    """The card if there is one, the processor and the threads that a process may use."""
    card = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    return f"{card}{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return " ".join(names[0].split()) if names else platform.machine()
