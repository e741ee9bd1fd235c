"""A Ray cluster of two nodes on this machine: a node is killed, nothing is lost, same bits."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from erasure.erasing import erase
from erasure.files.storage import file_digest
from evaluation.evaluating import evaluate
from evaluation.sweeping.cells import state_of
from evaluation.sweeping.grid import make_grid
from evaluation.sweeping.sharded import Shards, evaluate_on_ray
from evaluation.sweeping.sweep import Where, sweep

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
cluster_utils = pytest.importorskip("ray.cluster_utils", reason="the extra ray is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head that computes nothing; two nodes of one core."""
    found = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    for _ in range(2):
        found.add_node(num_cpus=1)
    found.wait_for_nodes()
    ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
    yield found
    ray.shutdown()
    found.shutdown()


def when(is_so: Callable[[], bool], then: Callable[[], None]) -> threading.Thread:
    """Do something as soon as something is so."""

    def watch() -> None:
        end = time.monotonic() + 240
        while not is_so() and time.monotonic() < end:
            time.sleep(0.05)
        then()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def kill_one(cluster: Any) -> None:
    """Kill a node, not the one that this process is at."""
    own = ray._private.worker.global_worker.node._raylet_socket_name
    others = [node for node in cluster.worker_nodes if node._raylet_socket_name != own]
    cluster.remove_node(others[0], allow_graceful=False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As a cell of one core has: bits are promised for a number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


ESD = {"steps": 60, "sampling_steps": 4, "checkpoint_seconds": 0}


@pytest.mark.usefixtures("one_thread")
def test_a_killed_node_loses_nothing(cluster: Any, listed: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    grid = make_grid({
        "model": str(listed), "methods": ["esd"], "concepts": ["cat", "dog", "tree"],
        "evaluate": False, "settings": ESD,
    })  # fmt: skip

    def both_train() -> bool:
        logs = list(out.glob("esd/*/seed-*/log.jsonl"))
        return len(logs) == 2 and all(log.read_text().count("\n") > 4 for log in logs)

    watch = when(both_train, lambda: kill_one(cluster))
    record = sweep(grid, out, Where(on="ray"))
    watch.join()
    assert [state_of(cell) for cell in record["cells"]] == ["done"] * 3
    begun = [log.read_text().count("$ erasure erase") for log in out.glob("esd/*/*.log")]
    assert sorted(begun) == [1, 1, 2]  # one was in the middle, and was begun again
    for cell in record["cells"]:
        (name,) = cell["concepts"]
        erase(str(listed), "esd", name, out=tmp_path / name, **ESD)
        files = [place / "edit.safetensors" for place in (out / cell["name"], tmp_path / name)]
        assert file_digest(files[0]) == file_digest(files[1]), name


@pytest.mark.usefixtures("one_thread")
def test_nodes_share_an_evaluation_and_one_is_killed(
    cluster: Any, sd1: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    erase(str(sd1), "uce", ["church"], kind="object", anchor="a house", out=here)
    shutil.copytree(here, there)
    asked = ["--protocol", "prompts", "--steps", "20", "--seeds", "188,288", "--keep", "48"]
    drawn, at_death = there / "images" / "prompts", list[int]()

    def kill() -> None:
        at_death.append(len(list(drawn.glob("*.png"))))
        kill_one(cluster)

    watch = when(lambda: len(list(drawn.glob("*.png"))) > 8, kill)
    told = evaluate_on_ray(["evaluate", str(there), *asked], Shards("ray", shards=2))
    watch.join()
    assert "protocol prompts" in told
    assert at_death[0] < len(list(drawn.glob("*.png")))
    evaluate(here, protocol="prompts", seeds=(188, 288), steps=20, keep=48)
    records = [json.loads((run / "scores/prompts.json").read_text()) for run in (here, there)]
    assert records[0]["scores"] == records[1]["scores"]
    files = sorted(file.relative_to(here) for file in here.glob("images/prompts*/*.png"))
    assert len(files) > 100
    for file in files:
        assert (here / file).read_bytes() == (there / file).read_bytes()
