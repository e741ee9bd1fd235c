"""Cells on this machine: so many at once, each with one GPU or its share of the cores."""

import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from evaluation.sweeping.children import cards, cores, end

POLL = 0.1  # seconds between two looks
Launch = Callable[[str, Mapping[str, str]], subprocess.Popen[bytes]]


def run_locally(
    names: Sequence[str], jobs: int, launch: Launch, ended: Callable[[str, int], None],
    tick: Callable[[], None], *, devices: Sequence[str] = (), cpus: int | None = None,
) -> None:  # fmt: skip
    """Run cells by their names, `jobs` at once, the next as soon as one ends.

    `launch` starts one with the environment of its place, `ended` is told its exit code, and `tick`
    is called all the time. Whatever ends this, a Ctrl-C too, ends the processes.
    """
    waiting = deque(names)
    running = dict[int, tuple[str, subprocess.Popen[bytes]]]()
    try:
        while waiting or running:
            for place in range(jobs):
                if waiting and place not in running:
                    name = waiting.popleft()
                    running[place] = name, launch(name, share(place, jobs, devices, cpus))
            for place, (name, child) in list(running.items()):
                if (code := child.poll()) is not None:
                    del running[place]
                    ended(name, code)
            tick()
            time.sleep(POLL)
    finally:
        end(child for _, child in running.values())


def share(place: int, jobs: int, devices: Sequence[str], cpus: int | None = None) -> dict[str, str]:
    """What one of so many processes uses: threads, and a GPU where there is one.

    The user's own OMP_NUM_THREADS stays; where there are fewer GPUs than jobs, some are shared.
    """
    threads = cpus or os.environ.get("OMP_NUM_THREADS") or max(cores() // jobs, 1)
    card = {"CUDA_VISIBLE_DEVICES": devices[place % len(devices)]} if devices else {}
    return {"OMP_NUM_THREADS": str(threads), **card}


def usual_jobs() -> int:
    """One for each GPU, or one."""
    return max(len(cards()), 1)
