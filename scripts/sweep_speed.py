"""What a sweep adds to its commands, and what a second job or a second node gains.

    python scripts/sweep_speed.py                               # minutes on two quiet cores
    python scripts/sweep_speed.py --on ray --out runs/ray-speed

The same UCE cells on the built-in model, each judged on a few images with one thread: one command
after another by hand, then by `--jobs 1` and `--jobs 2`; or on Ray with one and with two nodes of
one core. Prints a table in Markdown: *added* is what is left of a cell's time without its commands,
for starting a process, importing what they share, and waiting.
"""

import argparse
import importlib.util
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import markdown_file
from refusals import erasure

from erasure.files.records import CellShape
from erasure_datasets.canvas import OBJECTS
from evaluation.sweeping.cells import cells_of, state_of
from evaluation.sweeping.grid import Grid, make_grid
from evaluation.sweeping.sweep import Where, sweep

IMAGES = 24  # of each evaluation, of which 16 ask for the concept


def grid_of(count: int) -> Grid:
    return make_grid({
        "methods": ["uce"], "concepts": [*OBJECTS][:count], "quick": True,
        "evaluation": {"subset": IMAGES},
    })  # fmt: skip


def by_hand(grid: Grid, out: Path) -> float:
    """Seconds of all cells' commands, each a process of its own, one after another."""
    start = time.monotonic()
    for cell in cells_of(grid):
        for step in cell["steps"]:
            words = [str(out / word) if word == cell["name"] else word for word in step["command"]]
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            erasure(*words, stdout=subprocess.DEVNULL, env=env)
    return time.monotonic() - start


def swept(grid: Grid, out: Path, where: Where) -> tuple[float, list[CellShape]]:
    """(seconds of the whole sweep, its cells); RuntimeError if one failed."""
    start = time.monotonic()
    cells = sweep(grid, out, where)["cells"]
    if not all(state_of(cell) == "done" for cell in cells):
        raise RuntimeError(f"cells of {out} failed; their logs say why")
    return time.monotonic() - start, cells


@contextmanager
def cluster_of(nodes: int) -> Iterator[None]:
    """A Ray cluster on this machine: a head that computes nothing, and nodes of one core."""
    ray: Any = importlib.import_module("ray")
    utilities: Any = importlib.import_module("ray.cluster_utils")
    found = utilities.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        for _ in range(nodes):
            found.add_node(num_cpus=1)
        found.wait_for_nodes()
        ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
        yield
    finally:
        ray.shutdown()
        found.shutdown()


def row(name: str, seconds: float, alone: float, cells: list[CellShape], places: int) -> list[str]:
    spent = sum(step.get("seconds", 0.0) for cell in cells for step in cell["steps"])
    return [
        name, f"{seconds:.0f}", f"{spent / len(cells):.1f}",
        f"{(seconds * places - spent) / len(cells):.1f}", f"{alone / seconds:.2f}",
    ]  # fmt: skip


def table(asked: argparse.Namespace) -> list[list[str]]:
    """A row for each way to run the cells; speed-up is beside one job or node."""
    grid, alone, rows = grid_of(asked.cells), 0.0, list[list[str]]()
    if asked.on == "local":
        hand = by_hand(grid, asked.out / "by-hand")
        rows.append(["by hand", f"{hand:.0f}", f"{hand / asked.cells:.1f}", "", ""])
    for places in (1, 2):
        name = f"--jobs {places}" if asked.on == "local" else f"--on ray, nodes: {places}"
        with nullcontext() if asked.on == "local" else cluster_of(places):
            where = Where(jobs=places, cpus=1) if asked.on == "local" else Where(on="ray", cpus=1)
            seconds, cells = swept(grid, asked.out / f"{asked.on}-{places}", where)
        alone = alone or seconds
        rows.append(row(f"`{name}`", seconds, alone, cells, places))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/sweep-speed"), help="a new folder")
    parser.add_argument("--cells", type=int, default=6)
    parser.add_argument("--on", choices=("local", "ray"), default="local")
    markdown_file.add_option(parser)
    asked = parser.parse_args()
    if asked.cells < 2 or asked.cells % 2:  # a place that is idle would count as added time
        parser.error(f"cells must be even, so that two places have as many; got {asked.cells}")
    if asked.on == "ray" and importlib.util.find_spec("ray") is None:
        parser.error("on ray needs Ray: pip install 'erasure-toolkit[ray]'")
    if asked.out.exists():  # what is done would be passed over, and take no time
        parser.error(f"out must be a new folder; {asked.out} is there")
    heads = ["", "seconds", "commands of a cell", "added to a cell", "speed-up"]
    lines = [f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *table(asked)]]
    markdown_file.write(asked.markdown, "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
