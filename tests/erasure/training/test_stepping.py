"""Steps that do not wait: the same path, and the last good state where one is not finite."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from erasure.errors import DivergedError, SettingError
from erasure.files.storage import read_tensors
from erasure.training.hardware import Hardware
from erasure.training.learner import Learner
from erasure.training.run import Run
from erasure.training.stepping import READ_EVERY, Stepping


def stepping(
    folder: Path, weight: nn.Parameter, bad: int | None = None, **options: bool
) -> Stepping:
    run = Run(folder)
    run.begin({"command": "test", "method": "toy"})

    def loss(step: int) -> dict[str, Tensor]:
        return {"erase": weight.square().sum() * (float("inf") if step == bad else 1.0)}

    learner = Learner(loss, {"w": weight}, 0.1)
    return Stepping({"learner": learner}, run, "fit", carried={}, **options)


def walk(steps: Stepping, count: int) -> None:
    for step in range(count):
        steps.take(step, count)
        if steps.is_due or step + 1 == count:
            steps.read()


def logged(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_waiting_or_not_is_the_same_path(tmp_path: Path) -> None:
    ends = []
    for is_fused in (False, True):
        weight, folder = nn.Parameter(torch.tensor([3.0, -2.0])), tmp_path / str(is_fused)
        walk(stepping(folder, weight, is_fused=is_fused), 25)
        ends.append(weight.detach())
        assert [line["step"] for line in logged(folder)] == list(range(25))
    assert torch.allclose(*ends, atol=1e-6)  # a fused step rounds otherwise
    assert logged(tmp_path / "True")[24]["erase"] == pytest.approx(
        logged(tmp_path / "False")[24]["erase"], abs=1e-5
    )


@pytest.mark.parametrize("is_fused", [False, True])
def test_no_step_is_taken_from_the_first_bad_one_on(tmp_path: Path, is_fused: bool) -> None:
    weight, good = nn.Parameter(torch.tensor([3.0, -2.0])), nn.Parameter(torch.tensor([3.0, -2.0]))
    walk(stepping(tmp_path / "good", good, is_fused=is_fused), 13)
    steps = stepping(tmp_path / "bad", weight, bad=13, is_fused=is_fused)
    with pytest.raises(DivergedError, match=r"NaN or infinite at step 13.*state.fit\.safetensors"):
        walk(steps, 13 + READ_EVERY)
    assert torch.equal(weight, good)
    again = nn.Parameter(torch.zeros(2))
    resumed = stepping(tmp_path / "bad", again, is_fused=is_fused)
    with pytest.raises(DivergedError, match="diverged at step 13 and cannot go on"):
        resumed.restore()
    kept, _ = read_tensors(tmp_path / "bad" / "state" / "fit.safetensors")
    assert torch.equal(kept["learner.weight.w"], good)
    assert [line["step"] for line in logged(tmp_path / "bad")] == list(range(13))


@dataclass(frozen=True)
class Fp16(Hardware):
    """fp16 on a CPU, where only the scaler is of interest."""

    def __post_init__(self) -> None:
        pass


def test_a_method_without_use_for_fp16_refuses_it() -> None:
    with pytest.raises(SettingError, match="must be no or bf16 for sfd; its losses are sums"):
        Fp16(mixed_precision="fp16").refuse_fp16("sfd; its losses are sums")
    Fp16(mixed_precision="bf16").refuse_fp16("sfd; its losses are sums")


def test_fp16_scales_its_loss_and_resumes_its_scale(tmp_path: Path) -> None:
    def steps(weight: nn.Parameter) -> Stepping:
        run = Run(tmp_path, hardware=Fp16(mixed_precision="fp16"))
        run.begin({"command": "test", "method": "toy"})

        def loss(step: int) -> dict[str, Tensor]:
            return {"erase": weight.square().sum() * (float("nan") if step == 4 else 1.0)}

        learner = Learner(loss, {"w": weight}, 0.1, start={"w": torch.tensor([3.0])})
        return Stepping({"learner": learner}, run, "fit", carried={})

    def scale(stepping: Stepping) -> float:
        return stepping.descents["learner"].scaler.get_scale()

    weight = nn.Parameter(torch.tensor([3.0], dtype=torch.float16))
    first = steps(weight)
    walk(first, 4)  # the slope 2 w 65536 overflows float16 until the scale has come down
    assert scale(first) < 65536
    assert weight.item() < 3.0
    first.keep(4)
    second = steps(nn.Parameter(torch.tensor([0.0], dtype=torch.float16)))
    assert second.restore() == 4
    assert scale(second) == scale(first)
    with pytest.raises(DivergedError, match="at step 4"):
        second.take(4, 5)


def test_the_second_of_two_that_may_wait_is_named(tmp_path: Path) -> None:
    """From its turn on nobody moves any more, and that is found when the losses are read."""
    a, b = (nn.Parameter(torch.tensor([3.0])) for _ in range(2))
    seen: list[tuple[float, float]] = []
    run = Run(tmp_path)
    run.begin({"command": "test", "method": "toy"})

    def loss(step: int) -> dict[str, Tensor]:
        seen.append((a.item(), b.item()))
        return {"b": b.square().sum() * (float("nan") if step == 3 else 1.0)}

    learners = {
        "a": Learner(lambda _: {"a": a.square().sum()}, {"w": a}, 0.1),
        "b": Learner(loss, {"w": b}, 0.1),
    }
    steps = Stepping(learners, run, "fit", carried={}, is_fused=True)
    with pytest.raises(DivergedError, match=r"fit \(b\) became NaN or infinite at step 3"):
        walk(steps, 9)
    assert (a.item(), b.item()) == seen[3] == seen[-1]
    assert [line["step"] for line in logged(tmp_path)] == [0, 1, 2]
