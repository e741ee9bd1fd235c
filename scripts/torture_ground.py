"""What all of the tortures stand on: commands in forked children, and what a folder holds."""

import hashlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from erasure.commandline.main import main
from erasure.files.storage import TEMPORARY

VOLATILE = {"seconds", "peak_memory_gb", "command", "versions"}  # of one run or another
TRACEBACK = "Traceback (most recent call last)"
PATIENCE = 300.0  # seconds after which a child hangs


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, or minus the signal; and all that it said."""

    code: int
    said: str
    seconds: float

    @property
    def is_clean(self) -> bool:
        """Whether it did its work, or refused to in one line."""
        return TRACEBACK not in self.said and (self.code == 0 or self.is_refusal)

    @property
    def is_refusal(self) -> bool:
        told = [line for line in self.said.splitlines() if line.startswith("erasure: ")]
        return self.code == 2 and len([t for t in told if ": warning:" not in t]) == 1


def command(*words: object) -> Callable[[], None]:
    """What a child does to run `erasure WORDS`."""

    def run() -> None:
        sys.argv = ["erasure", *map(str, words)]
        main()

    return run


def run(
    work: Callable[[], object], *, kill_after: float | None = None,
    prepare: Callable[[], object] | None = None,
) -> Ended:  # fmt: skip
    """Work in a forked child, which is killed after so many seconds if it has not ended by then.

    `prepare` is done in the child before. The fork saves the imports; it is safe because torch has
    but one thread here.
    """
    return Child(work, prepare=prepare).ended(kill_after=kill_after)


class Child:
    """A process that works, and what it says, by a pipe: a full disk takes no files."""

    def __init__(
        self, work: Callable[[], object], *, prepare: Callable[[], object] | None = None
    ) -> None:
        if torch.get_num_threads() != 1:
            raise RuntimeError("a fork needs OMP_NUM_THREADS=1")
        sys.stdout.flush()
        self._start, self._said = time.monotonic(), b""
        self._pipe, ours = os.pipe()
        os.set_blocking(self._pipe, False)
        self._process = os.fork()
        if not self._process:
            _work(work, prepare, ours)
        os.close(ours)

    def ended(self, *, kill_after: float | None = None) -> Ended:
        """Wait; SIGKILL so many seconds after the start, or when patience ends."""
        limit = PATIENCE if kill_after is None else kill_after
        while True:
            done, status = os.waitpid(self._process, os.WNOHANG)
            self._listen()
            seconds = time.monotonic() - self._start
            if done:
                os.close(self._pipe)
                said = self._said.decode(errors="replace")
                return Ended(os.waitstatus_to_exitcode(status), said, seconds)
            if seconds > limit:
                os.kill(self._process, signal.SIGKILL)
                limit = float("inf")
            time.sleep(0.002)

    def _listen(self) -> None:
        with suppress(BlockingIOError):
            while part := os.read(self._pipe, 65536):
                self._said += part


def _work(work: Callable[[], object], prepare: Callable[[], object] | None, pipe: int) -> NoReturn:
    """What the child does; its exit code is the command's."""
    code = 1
    try:
        os.dup2(pipe, 1)
        os.dup2(pipe, 2)
        sys.stdout = os.fdopen(1, "w")
        sys.stderr = os.fdopen(2, "w", errors="backslashreplace")  # as Python has it
        if prepare:
            prepare()
        work()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def limited(size: int) -> Callable[[], None]:
    """Within the child no file may grow beyond so many bytes, as on a disk that is full."""

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return prepare


def contents(folder: Path) -> dict[str, str]:
    """What a folder holds, by relative path: digests, without what differs from run to run."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): _digest(file) for file in files}


def leftovers(folder: Path) -> list[str]:
    """What unfinished writes have left."""
    return [
        str(entry.relative_to(folder))
        for entry in folder.rglob("*")
        if TEMPORARY.fullmatch(entry.name) or entry.name == ".lock" or entry.name.startswith(".tmp")
    ]


def names(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with its size and time of change."""
    found = {}
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            told = file.stat()
            found[str(file.relative_to(folder))] = (told.st_size, told.st_mtime_ns)
    return found


def _digest(file: Path) -> str:
    if file.suffix in (".json", ".jsonl"):
        lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
        text = json.dumps([_lasting(json.loads(line)) for line in lines], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _lasting(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _lasting(held) for key, held in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [_lasting(held) for held in value]
    return value
