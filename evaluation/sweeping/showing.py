"""What a sweep shows while it runs: a live table on a terminal, a line per cell in a log."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from erasure.files.records import CellShape
from evaluation.sweeping.cells import state_of, what

LOOK = 1.0  # seconds between two looks at the records
Tick = Callable[[], None]
Told = Callable[[str], None]


@contextmanager
def live_table(
    cells: Mapping[str, CellShape], names: Sequence[str], look: Callable[[str], None]
) -> Iterator[tuple[Tick, Told]]:
    """(what to call all the time, what to call with a cell that ended).

    `look` reads a cell's record anew; `names` are the cells that are not done yet.
    """
    console = Console(stderr=True, markup=False, emoji=False)  # names are shown as they are
    start, last = time.monotonic(), [0.0]
    open_, ended = set(names), list[str]()
    with Live(
        console=console, auto_refresh=False, transient=True, redirect_stdout=False,
        redirect_stderr=False,
    ) as live:  # fmt: skip

        def tick() -> None:
            now = time.monotonic()
            if not console.is_terminal or now - last[0] < LOOK:
                return
            last[0] = now
            for name in open_:
                look(name)
            live.update(_shown(cells, ended, now - start, console.height), refresh=True)

        def told(name: str) -> None:
            open_.discard(name)
            ended.append(name)
            if not console.is_terminal:
                console.print(line(cells[name], len(ended), len(names)), soft_wrap=True)

        yield tick, told


def line(cell: CellShape, number: int, count: int) -> str:
    """A cell that ended, in one line."""
    state, seconds = state_of(cell), sum(step.get("seconds", 0.0) for step in cell["steps"])
    reason = failure(cell)
    return f"[{number}/{count}] {cell['name']} {state}, {seconds:.0f} s" + (
        f": {reason}" if reason else ""
    )


def failure(cell: CellShape) -> str:
    """Which step failed, and the last line that it said; empty where none did."""
    step = next((step for step in cell["steps"] if step["state"] == "failed"), None)
    return "" if step is None else f"{what(step)}: {step.get('line', '')}"


def _shown(
    cells: Mapping[str, CellShape], ended: Sequence[str], seconds: float, height: int
) -> Group:
    """The counts, and as many cells as there is room for: those at work first."""
    states = {name: state_of(cell) for name, cell in cells.items()}
    counts = {state: list(states.values()).count(state) for state in set(states.values())}
    head = Text(
        f"{counts.get('done', 0)} of {len(cells)} done, {counts.get('running', 0)} running, "
        f"{counts.get('failed', 0)} failed, {counts.get('missing', 0)} to come; {_time(seconds)}"
    )
    at_work = [name for name, state in states.items() if state == "running"]
    chosen = [*at_work, *(name for name in reversed(ended) if name not in at_work)]
    table = Table("cell", "state", "now", "seconds", "last line", box=None)
    for name in chosen[: max(height - 4, 1)]:
        cell = cells[name]
        now = next((step for step in cell["steps"] if step["state"] == "running"), None)
        spent = sum(step.get("seconds", 0.0) for step in cell["steps"])
        said = failure(cell) or next(
            filter(None, (step.get("line") for step in reversed(cell["steps"]))), ""
        )
        table.add_row(
            name, states[name], what(now) if now else "", f"{spent:.0f}",
            Text(said, no_wrap=True, overflow="ellipsis"),
        )  # fmt: skip
    return Group(head, table)


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
