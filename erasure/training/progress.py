"""A live display on standard error."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Bar:
    """One line of the live display; `watch` is told how many steps are done, and may raise."""

    def __init__(
        self, live: Progress, task: TaskID, watch: Callable[[int], None] | None = None
    ) -> None:
        self._live, self._task, self._start, self._count = live, task, time.monotonic(), 0
        self._watch = watch

    def advance(self, note: str = "") -> None:
        self._count += 1
        rate = self._count / max(time.monotonic() - self._start, 1e-6)
        self._live.update(self._task, advance=1, note=f"{note} {rate:.1f}/s".strip())
        if self._watch is not None:
            self._watch(self._count)


@contextmanager
def live_bar(
    stage: str, total: int, start: int = 0, *, quiet: bool = False, transient: bool = False,
    watch: Callable[[int], None] | None = None,
) -> Iterator[Bar]:  # fmt: skip
    """A bar of its own, with a note, the rate and the time left; nothing where no one looks.

    A `transient` one goes when it is done. `watch` is told how many steps are done.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[note]}"), TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(stderr=True)
    quiet = quiet or not console.is_terminal  # in a log it would be a blank line
    with Progress(*columns, console=console, transient=transient, disable=quiet) as live:
        yield Bar(live, live.add_task(stage, total=total, completed=start, note=""), watch)
