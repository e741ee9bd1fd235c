"""One line of a live display."""

import time

from rich.progress import Progress, TaskID


class Bar:
    """One line of the live display."""

    def __init__(self, live: Progress, task: TaskID) -> None:
        self._live, self._task, self._start, self._count = live, task, time.monotonic(), 0

    def advance(self, note: str = "") -> None:
        self._count += 1
        rate = self._count / max(time.monotonic() - self._start, 1e-6)
        self._live.update(self._task, advance=1, note=f"{note} {rate:.1f}/s".strip())
