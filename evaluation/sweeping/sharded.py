"""`erasure evaluate RUN --on ray`: the processes of one launch, spread over a cluster's nodes.

Each draws its share of the images into the run's folder, which the nodes share, exactly as under
`accelerate launch`. If a node is lost, all begin again, and what was drawn is there.
"""

import importlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erasure.errors import RunError, SettingError
from evaluation.sweeping.chain import last_line
from evaluation.sweeping.children import end, start
from evaluation.sweeping.on_ray import RETRIES, Cluster

OPTIONS = ("--on", "--address", "--shards", "--cpus", "--gpus")
MISTAKE = 2  # the exit code of what the user can mend
PATIENCE = 30.0  # seconds in which a lost node shows
TOLD = 2**16  # bytes of what the main process said


@dataclass(frozen=True)
class Shards:
    """How many processes an evaluation has, and what each takes; None is what is usual.

    SettingError for numbers out of range, and for any of them without `--on ray`.
    """

    on: str = "local"
    address: str | None = None
    shards: int | None = None
    cpus: int | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.on not in ("local", "ray"):
            raise SettingError(f"on must be local or ray; got {self.on!r}.")
        for name in ("address", "shards", "cpus", "gpus"):
            value = getattr(self, name)
            if value is not None and self.on == "local":
                raise SettingError(f"{name} has no effect with --on local; leave it out.")
        for name, least in (("shards", 1), ("cpus", 1), ("gpus", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise SettingError(f"{name} must be at least {least}; got {value}.")


def evaluate_on_ray(words: Sequence[str], how: Shards) -> str:
    """Run `erasure WORDS`, an evaluation, on a cluster; what its main process said.

    SettingError without a cluster that has room for one process. RunError, with the last line, for
    an evaluation that fails, or whose nodes are lost again and again.
    """
    cluster = Cluster.connect(how.address)
    plain = [*_without(words), "--on=local"]
    for attempt in range(RETRIES + 1):
        codes, texts = _launch(cluster, plain, how)
        if all(code == 0 for code in codes):  # None is no success
            return texts[0]
        if MISTAKE in codes:
            raise RunError(_last(texts[codes.index(MISTAKE)]).removeprefix("erasure: "))
        if None not in codes:
            failed = next(number for number, code in enumerate(codes) if code)
            raise RunError(f"process {failed} of {len(codes)} failed: {_last(texts[failed])}")
        if attempt == RETRIES:
            break
    raise RunError(f"nodes of the cluster were lost {RETRIES + 1} times; try again.")


def _without(words: Sequence[str]) -> list[str]:
    """The words of a command line without the options that are about the cluster."""
    rest, left = [], iter(words)
    for word in left:
        option, equals, _ = word.partition("=")
        if option not in OPTIONS:
            rest.append(word)
        elif not equals:
            next(left, None)
    return rest


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _launch(
    cluster: Cluster, words: Sequence[str], how: Shards
) -> tuple[list[int | None], list[str]]:
    """One try: each process's exit code, or None where its node was lost, and what it said."""
    ray = cluster.ray
    cpus, gpus = how.cpus or 1, how.gpus
    gpus = (1.0 if cluster.cards() else 0.0) if gpus is None else gpus
    group, count = _reserved(cluster, how.shards, cpus, gpus)
    by_group: Any = importlib.import_module("ray.util.scheduling_strategies")
    members = list[Any]()
    try:
        for number in range(count):
            place = by_group.PlacementGroupSchedulingStrategy(group, number)
            members.append(
                ray.remote(Member)
                .options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy=place)
                .remote()
            )
        meeting = ray.get(members[0].meeting_place.remote())
        common = {"WORLD_SIZE": str(count), "LOCAL_RANK": "0", "OMP_NUM_THREADS": str(cpus)}
        running = [
            member.run.remote([*words], os.getcwd(), common | meeting | {"RANK": str(number)})
            for number, member in enumerate(members)
        ]
        return _gathered(ray, running)
    except ray.exceptions.RayError:
        return [None], [""]  # a node was lost before they met
    finally:
        for member in members:
            ray.kill(member)
        _placing().remove_placement_group(group)


def _reserved(cluster: Cluster, asked: int | None, cpus: int, gpus: float) -> tuple[Any, int]:
    """Room for the processes, once there is, and how many they are."""
    bundle = {"CPU": cpus, **({"GPU": gpus} if gpus else {})}
    while True:
        count = _count(cluster, asked, cpus, gpus)
        group = _placing().placement_group([bundle] * count, strategy="SPREAD")
        if group.wait(PATIENCE):
            return group, count
        # other work has the room, or a node was lost that still counted
        _placing().remove_placement_group(group)


def _placing() -> Any:
    return importlib.import_module("ray.util")


def _count(cluster: Cluster, asked: int | None, cpus: int, gpus: float) -> int:
    """How many processes: as many as asked for, or one per GPU or node, where there is room."""
    rooms = [_room(node["Resources"], cpus, gpus) for node in cluster.ray.nodes() if node["Alive"]]
    if not sum(rooms):
        raise SettingError(
            f"cpus and gpus must fit a node of the cluster; no one has {cpus} cores and {gpus:g} "
            "GPUs."
        )
    usual = sum(rooms) if gpus else sum(room > 0 for room in rooms)
    return min(asked or usual, sum(rooms))


def _room(resources: dict[str, float], cpus: int, gpus: float) -> int:
    rooms = [int(resources.get("CPU", 0) // cpus)]
    if gpus:
        rooms.append(int(resources.get("GPU", 0) // gpus))
    return min(rooms)


def _gathered(ray: Any, running: Sequence[Any]) -> tuple[list[int | None], list[str]]:
    """Wait for all; after a first failure only so long as a lost node may take to show."""
    codes: list[int | None] = [0] * len(running)
    texts, waiting = [""] * len(running), list(running)
    until = float("inf")
    while waiting and time.monotonic() < until:
        done, waiting = ray.wait(waiting, timeout=1.0)
        for reference in done:
            number = running.index(reference)
            try:
                codes[number], texts[number] = ray.get(reference)
            except ray.exceptions.RayError:
                codes[number] = None
            if codes[number] != 0:
                until = min(until, time.monotonic() + PATIENCE)
            if codes[number] in (None, MISTAKE):
                return codes, texts
    return codes, texts


class Member:
    """An actor: the place of one process on its node."""

    def meeting_place(self) -> dict[str, str]:
        """Where the processes find each other, if this one's is the first."""
        address = _placing().get_node_ip_address()
        with socket.socket() as free:
            free.bind((address, 0))
            return {"MASTER_ADDR": address, "MASTER_PORT": str(free.getsockname()[1])}

    def run(self, words: Sequence[str], cwd: str, environment: dict[str, str]) -> tuple[int, str]:
        """Run `erasure WORDS` here; its exit code and what it said."""
        if not Path(cwd).is_dir():
            node = socket.gethostname()
            return MISTAKE, f"the node {node} does not see {cwd}; nodes must share that folder."
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "said")
            command = [sys.executable, "-m", "erasure", *words]
            child = start(command, log, environment, cwd=Path(cwd))
            try:
                code = child.wait()
            finally:
                end([child])
            if code and not last_line(log):
                return code, f"ended with code {code}"
            return code, log.read_bytes()[-TOLD:].decode(errors="replace")
