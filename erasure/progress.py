"""One line of a live display."""

import time
from collections.abc import Callable

from rich.progress import Progress, TaskID


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
