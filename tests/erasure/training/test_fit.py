import json
from pathlib import Path

import pytest
import torch
from torch import nn

from erasure.errors import DivergedError
from erasure.training.fit import fit
from erasure.training.run import Run


def new_run(folder: Path) -> Run:
    run = Run(folder)
    run.begin({"command": "test", "method": "toy"})
    return run


def test_it_minimises_logs_and_freezes(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.tensor([3.0, -2.0]), requires_grad=False)
    run = new_run(tmp_path / "run")
    fit(
        lambda _step: {"erase": weight.square().sum()},
        {"w": weight},
        steps=200,
        learning_rate=0.1,
        run=run,
    )
    assert weight.abs().max() < 0.05
    assert not weight.requires_grad
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(200))
    assert lines[0]["erase"] == 13.0


def test_masked_weights_keep_their_bits(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.tensor([3.0, -2.0, 1.0]))
    mask = torch.tensor([True, False, True])
    run = new_run(tmp_path / "run")
    fit(
        lambda _step: {"erase": weight.square().sum()},
        {"w": weight},
        steps=5,
        learning_rate=0.1,
        run=run,
        masks={"w": mask},
    )
    assert weight[1] == -2.0
    assert weight[0] != 3.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_diverges_keeps_the_last_good_state(tmp_path: Path, bad: float) -> None:
    weight = nn.Parameter(torch.tensor([3.0]))
    run = new_run(tmp_path / "run")
    seen = []

    def loss(step: int) -> dict:
        seen.append(weight.item())
        return {"erase": weight.square().sum() * (bad if step == 3 else 1.0)}

    with pytest.raises(DivergedError, match=r"NaN or infinite at step 3.*state.fit\.safetensors"):
        fit(loss, {"w": weight}, steps=9, learning_rate=0.1, run=run)
    assert weight.item() == seen[-1]
    assert (tmp_path / "run" / "state" / "fit.safetensors").is_file()


def test_infinite_gradients_are_met_too(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.tensor([0.0]))
    with pytest.raises(DivergedError):
        fit(
            lambda _step: {"erase": weight.sqrt().sum()},
            {"w": weight},
            steps=1,
            learning_rate=0.1,
            run=new_run(tmp_path / "r"),
        )


def test_shards_are_the_whole_in_one_process(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert torch.equal(run.shard(torch.arange(4)), torch.arange(4))


def test_stage_generators_do_not_depend_on_each_other(tmp_path: Path) -> None:
    run = Run(tmp_path, seed=3)
    first = torch.randn(3, generator=run.generator_for("a"))
    torch.randn(5, generator=run.generator)
    assert torch.equal(first, torch.randn(3, generator=Run(tmp_path, seed=3).generator_for("a")))
    assert not torch.equal(first, torch.randn(3, generator=run.generator_for("b")))
    assert not torch.equal(
        first, torch.randn(3, generator=Run(tmp_path, seed=4).generator_for("a"))
    )
