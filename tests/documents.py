"""The fenced blocks of the README and of the documentation's pages, as a reader would run them.

A comment right before a block says how the tests treat it: `<!-- slow: reason -->` runs with the
slow tests alone, `<!-- not run: reason -->` is only checked for being a command that exists.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
MARK = re.compile(r"<!-- (slow|not run): (.+) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block; `title` is the file that a reader saves it as."""

    page: str
    line: int
    language: str
    title: str
    text: str
    mark: Literal["", "slow", "not run"]
    reason: str

    def commands(self) -> Iterator[list[str]]:
        """The words of each command line of a block of shell, without comments."""
        for line in self.text.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                if words := shlex.split(part, comments=True):
                    yield words


def blocks(page: Path) -> list[Block]:
    """A page's blocks of shell and Python, and files of settings, in order."""
    found: list[Block] = []
    name, lines = page.relative_to(ROOT).as_posix(), page.read_text(encoding="utf-8").splitlines()
    start, before = 0, ""
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if not start:
            start, before = number + 1, lines[number - 1] if number else ""
            continue
        fence = lines[start - 1].removeprefix("```")
        language, _, rest = fence.partition(" ")
        title = rest.partition('title="')[2].rstrip('"')
        mark, reason = known.groups() if (known := MARK.fullmatch(before)) else ("", "")
        text = "\n".join(lines[start:number]) + "\n"
        if language in ("sh", "python", "toml", "csv"):
            found.append(Block(name, start, language, title, text, mark, reason))  # type: ignore[arg-type]
        start = 0
    return found


def every_block() -> list[Block]:
    return [block for page in PAGES for block in blocks(page)]
