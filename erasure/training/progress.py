"""A live display on standard error."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PATIENCE = 1.0  # seconds of work that need no bar
Item = TypeVar("Item")
_open: list[object] = []  # a terminal has room for one display; what is inside of it stays silent


class Bar:
    """One line of the live display; `watch` is told how many steps are done, and may raise.

    It appears `after` so many seconds.
    """

    def __init__(
        self, live: Progress, task: TaskID, watch: Callable[[int], None] | None = None, *,
        after: float = 0.0,
    ) -> None:  # fmt: skip
        self._live, self._task, self._start, self._count = live, task, time.monotonic(), 0
        self._watch, self._after = watch, after

    def advance(self, note: str = "") -> None:
        self._count += 1
        passed = max(time.monotonic() - self._start, 1e-6)
        rate = f"{self._count / passed:.1f}/s"
        self._live.update(self._task, advance=1, note=f"{note} {rate}".strip())
        if passed >= self._after and not self._live.live.is_started:
            self._live.start()
        if self._watch is not None:
            self._watch(self._count)


@contextmanager
def live_bar(
    stage: str, total: int, start: int = 0, *, quiet: bool = False, transient: bool = False,
    watch: Callable[[int], None] | None = None, after: float = 0.0,
) -> Iterator[Bar]:  # fmt: skip
    """A bar of its own, with a note, the rate and the time left; nothing where no one looks.

    A `transient` one goes when it is done; one inside of another is not shown. `watch` is told how
    many steps are done. It appears `after` so many seconds.
    """
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[note]}", markup=False), TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(stderr=True)
    # in a log it would be a blank line
    quiet = quiet or bool(_open) or not console.is_terminal
    live = Progress(*columns, console=console, transient=transient, disable=quiet)
    bar = Bar(live, live.add_task(stage, total=total, completed=start, note=""), watch, after=after)
    _open.append(bar)
    try:
        if not after:
            live.start()
        yield bar
    finally:
        _open.remove(bar)
        if live.live.is_started:
            live.stop()


def shown(items: Iterable[Item], stage: str, total: int | None = None) -> Iterator[Item]:
    """The items in turn, with a bar where they take long; of a launch the main process has it.

    `total` is their number, for items without a length.
    """
    count = len(items) if total is None and isinstance(items, Sequence) else total or 0
    quiet = os.environ.get("RANK", "0") != "0"
    with live_bar(stage, count, quiet=quiet, transient=True, after=PATIENCE) as bar:
        for item in items:
            yield item
            bar.advance()


@contextmanager
def waiting(stage: str) -> Iterator[None]:
    """Say what is going on, and for how long, where nobody can tell when it ends."""
    columns = (
        SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(),
    )  # fmt: skip
    console = Console(stderr=True)
    quiet = bool(_open) or not console.is_terminal or os.environ.get("RANK", "0") != "0"
    with Progress(*columns, console=console, transient=True, disable=quiet) as live:
        live.add_task(stage, total=None)
        _open.append(live)
        try:
            yield
        finally:
            _open.remove(live)
