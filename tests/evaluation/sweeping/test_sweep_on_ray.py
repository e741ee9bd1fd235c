"""A Ray cluster of two nodes on this machine: a node is killed, nothing is lost, same bits."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from erasure.erasing import erase
from erasure.files.storage import file_digest
from evaluation.sweeping.cells import state_of
from evaluation.sweeping.grid import Grid, make_grid
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
    cluster.remove_node(cluster.worker_nodes and sorted(cluster.worker_nodes, key=id)[0],
                        allow_graceful=False)  # fmt: skip


def grid(model: Path) -> Grid:
    return make_grid({
        "model": str(model), "methods": ["esd"], "concepts": ["cat", "dog"], "seeds": [0, 1],
        "evaluate": False, "settings": {"steps": 60, "sampling_steps": 4, "checkpoint_seconds": 0},
    })  # fmt: skip


def test_a_killed_node_loses_nothing(cluster: Any, listed: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"

    def both_train() -> bool:
        logs = list(there.glob("esd/*/seed-*/log.jsonl"))
        return len(logs) == 2 and all(log.read_text().count("\n") > 4 for log in logs)

    watch = when(both_train, lambda: kill_one(cluster))
    record = sweep(grid(listed), there, Where(on="ray"))
    watch.join()
    assert [state_of(cell) for cell in record["cells"]] == ["done"] * 4
    begun = [log.read_text().count("$ erasure erase") for log in there.glob("esd/*/*.log")]
    assert sorted(begun) == [1, 1, 1, 2]  # one was in the middle, and was begun again
    sweep(grid(listed), here, Where(jobs=1, cpus=1))
    for cell in record["cells"]:
        digests = {file_digest(out / cell["name"] / "edit.safetensors") for out in (here, there)}
        assert len(digests) == 1, cell["name"]


@pytest.mark.parametrize("is_killed", [False, True])
def test_nodes_share_an_evaluation(
    cluster: Any, sd1: Path, tmp_path: Path, is_killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    erase(str(sd1), "uce", ["church"], kind="object", anchor="a house", out=here)
    shutil.copytree(here, there)
    asked = ["--protocol", "prompts", "--steps", "12", "--seeds", "188,288", "--keep", "32"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    alone = evaluate_on_ray(["evaluate", str(here), *asked], Shards("ray", shards=1))
    assert "protocol prompts" in alone
    if is_killed:
        drawn = there / "images" / "prompts"
        watch = when(lambda: len(list(drawn.glob("*.png"))) > 8, lambda: kill_one(cluster))
    told = evaluate_on_ray(["evaluate", str(there), *asked], Shards("ray", shards=2))
    assert "protocol prompts" in told
    if is_killed:
        watch.join()
        assert sum(node["Alive"] for node in ray.nodes()) == 2  # the head and one
    records = [json.loads((run / "scores/prompts.json").read_text()) for run in (here, there)]
    assert records[0]["scores"] == records[1]["scores"]
    files = sorted(file.relative_to(here) for file in here.glob("images/prompts*/*.png"))
    assert len(files) > 40
    for file in files:
        assert (here / file).read_bytes() == (there / file).read_bytes()
