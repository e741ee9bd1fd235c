"""Steps that do not wait: the same path, and the last good state where one is not finite."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from erasure.errors import DivergedError
from erasure.files.storage import read_tensors
from erasure.training.hardware import Hardware
from erasure.training.masters import Masters
from erasure.training.optimisers import ADAM
from erasure.training.run import Run
from erasure.training.stepping import READ_EVERY, Stepping


def stepping(folder: Path, weight: nn.Parameter, **options: bool) -> Stepping:
    run = Run(folder)
    run.begin({"command": "test", "method": "toy"})
    return Stepping(Masters({"w": weight}), ADAM, 0.1, run, "fit", carried={}, clip=None, **options)


def walk(steps: Stepping, weight: nn.Parameter, count: int, bad: int | None = None) -> None:
    for step in range(count):
        loss = weight.square().sum() * (float("inf") if step == bad else 1.0)
        steps.take(step, [{"erase": loss}], 0.1)
        if steps.is_due or step + 1 == count:
            steps.read()


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_waiting_or_not_is_the_same_path(tmp_path: Path) -> None:
    ends = []
    for is_fused in (False, True):
        weight, folder = nn.Parameter(torch.tensor([3.0, -2.0])), tmp_path / str(is_fused)
        walk(stepping(folder, weight, is_fused=is_fused), weight, 25)
        ends.append(weight.detach())
        assert [line["step"] for line in logged(folder)] == list(range(25))
    assert torch.allclose(*ends, atol=1e-6)  # a fused step rounds otherwise
    assert logged(tmp_path / "True")[24]["erase"] == pytest.approx(
        logged(tmp_path / "False")[24]["erase"], abs=1e-5
    )


@pytest.mark.parametrize("is_fused", [False, True])
def test_no_step_is_taken_from_the_first_bad_one_on(tmp_path: Path, is_fused: bool) -> None:
    weight, good = nn.Parameter(torch.tensor([3.0, -2.0])), nn.Parameter(torch.tensor([3.0, -2.0]))
    walk(stepping(tmp_path / "good", good, is_fused=is_fused), good, 13)
    steps = stepping(tmp_path / "bad", weight, is_fused=is_fused)
    with pytest.raises(DivergedError, match=r"NaN or infinite at step 13.*state.fit\.safetensors"):
        walk(steps, weight, 13 + READ_EVERY, bad=13)
    assert torch.equal(weight, good)
    again = nn.Parameter(torch.zeros(2))
    resumed = stepping(tmp_path / "bad", again, is_fused=is_fused)
    with pytest.raises(DivergedError, match="diverged at step 13 and cannot go on"):
        resumed.restore()
    kept, _ = read_tensors(tmp_path / "bad" / "state" / "fit.safetensors")
    assert torch.equal(kept["weight.w"], good)
    assert [line["step"] for line in logged(tmp_path / "bad")] == list(range(13))


@dataclass(frozen=True)
class Fp16(Hardware):
    """fp16 on a CPU, where only the scaler is of interest."""

    def __post_init__(self) -> None:
        pass


def test_fp16_scales_its_loss_and_resumes_its_scale(tmp_path: Path) -> None:
    def steps(weight: nn.Parameter) -> Stepping:
        run = Run(tmp_path, hardware=Fp16(mixed_precision="fp16"))
        run.begin({"command": "test", "method": "toy"})
        masters = Masters({"w": weight}, start={"w": torch.tensor([3.0])})
        return Stepping(masters, ADAM, 0.1, run, "fit", carried={}, clip=None)

    weight = nn.Parameter(torch.tensor([3.0], dtype=torch.float16))
    first = steps(weight)
    for step in range(4):
        # the slope 2 w 65536 overflows float16 until the scale has come down
        first.take(step, [{"erase": weight.square().sum()}], 0.1)
        first.read()
    assert first.scaler.get_scale() < 65536
    assert weight.item() < 3.0
    first.keep(4)
    second = steps(nn.Parameter(torch.tensor([0.0], dtype=torch.float16)))
    assert second.restore() == 4
    assert second.scaler.get_scale() == first.scaler.get_scale()
    with pytest.raises(DivergedError, match="at step 4"):
        second.take(4, [{"erase": second.masters.weights["w"].sum() * float("nan")}], 0.1)
