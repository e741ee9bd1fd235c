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
def live_bar(stage: str, total: int, start: int = 0, *, quiet: bool = False) -> Iterator[Bar]:
    """A bar of its own, with a note, the rate and the time left."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[note]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as live:
        yield Bar(live, live.add_task(stage, total=total, completed=start, note=""))
