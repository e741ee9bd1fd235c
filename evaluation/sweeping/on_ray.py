"""Cells on a Ray cluster, whose nodes share this folder: one Ray task each.

A task starts the cell's process on its node, as `--on local` does here. Ray begins it again on
another node if its own is lost; the ordinary commands then go on with what lies in the folder.
"""

import importlib
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erasure.errors import SettingError
from evaluation.sweeping.children import end, start

RETRIES = 3  # of a cell whose node is lost
POLL = 0.5  # seconds between two looks
GRACE = 12.0  # seconds that cancelled tasks have to end their processes


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process has joined; `ray` is the library."""

    ray: Any

    @staticmethod
    def connect(address: str | None = None) -> "Cluster":
        """Join the cluster, "auto" for the one that this machine is a node of.

        SettingError without Ray, or where there is no such cluster.
        """
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise SettingError("on ray needs Ray: pip install 'erasure-toolkit[ray]'.") from error
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # where it starts one here
            try:
                ray.init(address=address or "auto", log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                said = " ".join(str(error).split()).split(". ")[0].rstrip(".")
                raise SettingError(
                    f"address must be a running Ray cluster's; {address or 'auto'}: {said}."
                ) from error
        return Cluster(ray)

    def cards(self) -> float:
        """How many GPUs its nodes have."""
        return self.ray.cluster_resources().get("GPU", 0.0)


def run_on_ray(
    names: Sequence[str], out: Path, cluster: Cluster, ended: Callable[[str, int, str], None],
    tick: Callable[[], None], *, cpus: int | None = None, gpus: float | None = None,
    retries: int | None = None,
) -> None:  # fmt: skip
    """Run cells by their names, as many at once as the cluster has room for.

    `ended` is told a cell's exit code and, where its process could not say why, the reason; `tick`
    is called all the time. Whatever ends this, a Ctrl-C too, ends the tasks.
    """
    ray = cluster.ray
    card = (1.0 if cluster.cards() else 0.0) if gpus is None else gpus
    task, cores = ray.remote(run_cell), cpus or 1
    tries = RETRIES if retries is None else retries
    waiting = {
        task.options(name=name, num_cpus=cores, num_gpus=card, max_retries=tries).remote(
            name, str(out), os.getcwd(), cores
        ): name
        for name in names
    }
    try:
        while waiting:
            done, _ = ray.wait(list(waiting), timeout=POLL)
            for reference in done:
                name = waiting.pop(reference)
                ended(name, *_outcome(ray, reference))
            tick()
    except BaseException:
        _cancel(ray, list(waiting))
        raise


def _outcome(ray: Any, reference: Any) -> tuple[int, str]:
    """(exit code, why, where Ray itself ended it)."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        said = " ".join(str(error).split())
        return 1, f"{type(error).__name__}: {said[:200]}"


def _cancel(ray: Any, references: Sequence[Any]) -> None:
    """Let tasks end their processes, and kill those that do not."""
    for reference in references:
        ray.cancel(reference)
    if references:
        _, left = ray.wait([*references], num_returns=len(references), timeout=GRACE)
        for reference in left:
            ray.cancel(reference, force=True)


def run_cell(name: str, out: str, cwd: str, cpus: int) -> tuple[int, str]:
    """The task: run a cell on this node; its exit code, and why where it said nothing."""
    place = Path(cwd, out)
    for needed in (Path(cwd), place / "sweep.json", place / f"{name}.json"):
        if not needed.exists():
            node = socket.gethostname()
            return 1, f"the node {node} does not see {needed}; nodes must share these folders"
    command = [sys.executable, "-m", "evaluation.sweeping.chain", out, name]
    environment = {"OMP_NUM_THREADS": str(cpus)}
    child = start(command, place / f"{name}.log", environment, cwd=Path(cwd))
    try:
        return child.wait(), ""
    finally:
        end([child])
