"""`erasure sweep`: every cell of a grid, here or on a Ray cluster; what is done is passed over."""

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from erasure.errors import SettingError
from erasure.files.locking import alone_in
from erasure.files.naming import checked_path
from erasure.files.records import CellShape, SweepShape
from erasure.files.storage import write_json
from erasure.registry import plugin_files
from erasure.training.run_folder import refuse_inside
from evaluation.sweeping.cells import (
    cells_of,
    is_finished,
    read_cell,
    read_sweep,
    record_file,
    refuse_another,
    state_of,
    write_sweep,
)
from evaluation.sweeping.chain import last_line
from evaluation.sweeping.children import cards, start, told
from evaluation.sweeping.grid import Grid
from evaluation.sweeping.local import run_locally, usual_jobs
from evaluation.sweeping.on_ray import Cluster, run_on_ray
from evaluation.sweeping.showing import live_table

On = Literal["local", "ray"]


@dataclass(frozen=True)
class Where:
    """Where a sweep's cells run, and on how much of it; None is what is usual there.

    `jobs` at once on this machine; `cpus` cores and `gpus` cards for each, the latter on Ray, where
    a cell whose node is lost is begun again up to `retries` times. `address` is the cluster's.
    SettingError for what has no effect and for numbers out of range.
    """

    on: str = "local"
    jobs: int | None = None
    cpus: int | None = None
    gpus: float | None = None
    address: str | None = None
    retries: int | None = None

    def __post_init__(self) -> None:
        if self.on not in get_args(On):
            raise SettingError(f"on must be local or ray; got {self.on!r}.")
        idle = ("gpus", "address", "retries") if self.on == "local" else ("jobs",)
        for name in idle:
            if getattr(self, name) is not None:
                raise SettingError(f"{name} has no effect with --on {self.on}; leave it out.")
        for name, least in (("jobs", 1), ("cpus", 1), ("gpus", 0), ("retries", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise SettingError(f"{name} must be at least {least}; got {value}.")


def sweep(grid: Grid, out: Path | str, where: Where = Where()) -> SweepShape:
    """Run what a grid asks for and is not done yet, under `out`; returns sweep.json's record.

    The same call goes on after an end of any kind; a grid that has grown adds its new cells. Cells
    that fail are in the record, with the last line that they said, and are tried again by the next
    call. SettingError for what is not valid, RunError for a folder that holds something else; then
    nothing is written.
    """
    out = checked_path(out, "out")
    refuse_inside(out)
    if os.environ.get("WORLD_SIZE", "1") != "1":  # as launches tell
        raise SettingError("a sweep starts its own processes; start it without accelerate launch.")
    cluster = None
    if where.on == "ray":  # before anything is written: it may not be there
        cluster = Cluster.connect(where.address)
    cells = cells_of(grid, plugin_files())
    refuse_another(out, cells)
    with alone_in(out):
        state = _Progress(out, asdict(grid), {c["name"]: read_cell(out, c) for c in cells})
        state.write()
        _run(state, where, cluster)
        return read_sweep(out)


class _Progress:
    """The cells as they stand, which the folder's records follow."""

    def __init__(self, out: Path, grid: Mapping[str, Any], cells: dict[str, CellShape]) -> None:
        self.out, self.grid, self.cells = out, dict(grid), cells
        for cell in cells.values():
            for step in cell["steps"]:
                if not is_finished(out, cell, step):
                    step["state"] = "missing"

    def left(self) -> list[str]:
        return [name for name, cell in self.cells.items() if state_of(cell) != "done"]

    def write(self) -> None:
        for name in self.left():
            write_json(record_file(self.out, name), self.cells[name])
        write_sweep(self.out, self.grid, list(self.cells.values()))

    def look(self, name: str) -> None:
        """Read a cell's record again, which its process writes."""
        self.cells[name] = read_cell(self.out, self.cells[name])

    def ended(self, name: str, code: int, line: str = "") -> None:
        """Note that a cell's process is gone, and why, where it could not say so itself."""
        self.look(name)
        cell = self.cells[name]
        if code and state_of(cell) not in ("failed", "done"):
            steps = cell["steps"]
            step = next((s for s in steps if s["state"] == "running"), None) or next(
                s for s in steps if s["state"] != "done"
            )
            said = "" if code < 0 else last_line(self.out / f"{name}.log")
            step |= {"state": "failed", "line": line or said or told(code)}
            write_json(record_file(self.out, name), cell)
        write_sweep(self.out, self.grid, list(self.cells.values()))


def _run(state: _Progress, where: Where, cluster: Cluster | None) -> None:
    names = state.left()
    with live_table(state.cells, names, state.look) as (tick, told_end):

        def ended(name: str, code: int, line: str = "") -> None:
            state.ended(name, code, line)
            told_end(name)

        try:
            if cluster is not None:
                run_on_ray(
                    names, state.out, cluster, ended, tick, cpus=where.cpus, gpus=where.gpus,
                    retries=where.retries,
                )  # fmt: skip
            elif names:
                run_locally(
                    names, where.jobs or usual_jobs(), partial(launch, state.out), ended, tick,
                    devices=cards(), cpus=where.cpus,
                )  # fmt: skip
        except KeyboardInterrupt:
            for name in names:
                state.look(name)
            for cell in state.cells.values():
                for step in cell["steps"]:
                    if step["state"] == "running":
                        step["state"] = "missing"
            state.write()
            raise


def launch(out: Path, name: str, environment: Mapping[str, str]) -> Any:
    """Start a cell's process."""
    return start(command(out, name), out / f"{name}.log", environment)


def command(out: Path, name: str) -> list[str]:
    """What runs a cell."""
    return [sys.executable, "-m", "evaluation.sweeping.chain", str(out), name]
