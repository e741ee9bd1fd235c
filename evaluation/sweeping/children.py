"""Processes of a sweep: how a cell's is started, with what it sees of the machine, and ended."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from evaluation.sweeping import bound

GRACE = 10.0  # seconds that an interrupted process has to end by itself
POSIX = os.name == "posix"


def start(
    command: list[str], log: Path, environment: Mapping[str, str], *, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a command that ends with this process; what it says is added to the log.

    Ctrl-C in a terminal does not reach it: `end` tells it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    bind = [sys.executable, "-I", "-S", bound.__file__, str(os.getpid())]
    with log.open("ab") as stream:
        return subprocess.Popen(
            [*bind, *command], stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, cwd=cwd,
            env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"}, start_new_session=POSIX,
        )  # fmt: skip


def end(children: Iterable[subprocess.Popen[bytes]]) -> None:
    """Interrupt processes, and kill those that do not end soon."""
    left = [child for child in children if child.poll() is None]
    for child in left:
        _tell(child, signal.SIGINT)
    until = time.monotonic() + GRACE
    try:
        for child in left:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(until - time.monotonic(), 0.01))
    finally:  # a second Ctrl-C does not wait
        for child in left:
            if child.poll() is None:
                _tell(child, signal.SIGKILL if POSIX else signal.SIGTERM)
                child.wait()


def _tell(child: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        if POSIX:
            os.killpg(child.pid, number)
        else:
            child.terminate()


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cards() -> list[str]:
    """The CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch  # takes seconds, and is needed by a sweep on this machine alone

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    if not count:
        return []
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def told(code: int) -> str:
    """How a process ended that left no line of its own."""
    if code < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"ended with code {code}"
