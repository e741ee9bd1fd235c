"""An evaluation shared by a cluster, without one: what the ends of its processes amount to."""

from typing import Any

import pytest

from erasure.errors import RunError
from evaluation.sweeping import sharded
from evaluation.sweeping.on_ray import RETRIES, Cluster
from evaluation.sweeping.sharded import Shards, evaluate_on_ray

Launched = tuple[list[int | None], list[str]]
DONE: Launched = ([0, 0], ["the scores", ""])
LOST: Launched = ([0, None], ["", ""])  # the first was still at work
NEVER_MET: Launched = ([None], [""])


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Launched]:
    """What each launch ends with, in turn."""
    found = list[Launched]()
    monkeypatch.setattr(Cluster, "connect", staticmethod(lambda _: Cluster(None)))
    monkeypatch.setattr(sharded, "_launch", lambda *_: found.pop(0))
    return found


def evaluated() -> Any:
    return evaluate_on_ray(["evaluate", "run"], Shards("ray"))


def test_a_lost_node_is_no_success(launches: list[Launched]) -> None:
    launches += [LOST, NEVER_MET, DONE]
    assert evaluated() == "the scores"
    launches += [LOST] * (RETRIES + 1)
    with pytest.raises(RunError, match="were lost 4 times"):
        evaluated()


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (([0, 2], ["", "erasure: seeds must be"]), "^seeds must be"),
        (([None, 2], ["", "erasure: seeds must be"]), "^seeds must be"),
        (([0, 1], ["", "Traceback\nKeyError: 1"]), "process 1 of 2 failed: KeyError: 1"),
    ],
)
def test_a_failure_is_told_and_not_tried_again(
    launches: list[Launched], end: Launched, told: str
) -> None:
    launches.append(end)
    with pytest.raises(RunError, match=told):
        evaluated()
