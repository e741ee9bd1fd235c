"""Two processes do what one does: half of each batch, of the images to draw, of an attack."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import erasure
from erasure.errors import SettingError
from erasure.files.storage import read_lines, read_tensors
from erasure.models.diffusion.load import load_model
from erasure.training.run import Run
from erasure_datasets.images import read_image
from evaluation import attack

SETTINGS: dict[str, Any] = {
    "steps": 4, "batch_size": 4, "learning_rate": 1e-3, "forget_images": 4, "retain_images": 4,
    "sampling_steps": 2,
}  # fmt: skip
ASKED: dict[str, Any] = {"kind": "object", "anchor": "dog"}

BRIGHTER_RIGHT = """
def brighter_right(images):
    left, right = images.float().mean((1, 2)).chunk(2, dim=1)
    return right.mean(1) > left.mean(1)
"""


def launch(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Two processes; accelerate's --multi_gpu stands for "several processes", on CPUs too."""
    launcher = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu",
        "--main_process_port", "0", "--num_processes", "2", "--num_machines", "1",
    ]  # fmt: skip
    return subprocess.run(
        [*launcher, "-m", "erasure", *command],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=300,
    )


def test_two_ranks_take_the_path_of_one(sd1: Path, tmp_path: Path) -> None:
    """The same draws, mask and steps, up to the order of a sum."""
    runs = [tmp_path / "one", tmp_path / "two"]
    erasure.erase(str(sd1), "salun", ["cat"], out=runs[0], **ASKED, **SETTINGS)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in (ASKED | SETTINGS).items()]
    done = launch("erase", "salun", "--concept", "cat", "--model", sd1, "--out", runs[1], *words)
    assert done.returncode == 0, done.stderr
    assert json.loads((runs[1] / "config.json").read_text())["processes"] == 2
    masks = [read_tensors(run / "mask.safetensors")[0] for run in runs]
    same = torch.cat([(masks[0][name] == masks[1][name]).flatten() for name in masks[0]])
    assert same.float().mean() > 0.999  # other images would leave about half
    # other draws change a loss by several percent; before the first step nothing but the
    # order of a sum differs, afterwards Adam's steps along gradients that are next to nothing do
    logs = [read_lines(run / "log.jsonl") for run in runs]
    for number, (line, other) in enumerate(zip(*logs, strict=True)):
        near = 1e-4 if number == 0 else 1e-2
        for name in ("erase", "retain"):
            assert line[name] == pytest.approx(other[name], rel=near, abs=2e-6), (number, name)
    # not element by element: a gradient of rounding alone moves a weight as far as any other
    moves = [move(sd1, run) for run in runs]
    assert torch.cosine_similarity(*moves, dim=0) > 0.99
    assert float(moves[1].norm() / moves[0].norm()) == pytest.approx(1, abs=0.01)


def move(model: Path, run: Path) -> Tensor:
    """The whole update of a run, as one float64 vector."""
    base = load_model(str(model)).parameters()
    tensors, _ = read_tensors(run / "edit.safetensors")
    return torch.cat([(tensors.get(n, w).double() - w.detach()).flatten() for n, w in base.items()])


def test_a_batch_that_does_not_divide_is_refused(
    sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "_split", (2, 1))  # as in a launch of two
    with pytest.raises(SettingError, match=r"a multiple of the 2 processes; got 3\."):
        erasure.erase(
            str(sd1),
            "salun",
            ["cat"],
            out=tmp_path / "odd",
            **ASKED,
            **SETTINGS | {"batch_size": 3},
        )


@pytest.mark.slow
def test_two_ranks_draw_and_attack_as_one_does(sd1: Path, tmp_path: Path) -> None:
    """21 cases are two shares of the search, and 11 and 10 images of each drawing."""
    criterion = tmp_path / "mine.py"
    criterion.write_text(BRIGHTER_RIGHT)
    runs = {1: tmp_path / "one", 2: tmp_path / "two"}
    erasure.erase(str(sd1), "uce", ["cat"], kind="object", anchor="dog", out=runs[1])
    record = json.loads((runs[1] / "edit.json").read_text())
    record["sampling"] = {"steps": 2, "guidance": 2.0, "scheduler": "DDIMScheduler"}
    (runs[1] / "edit.json").write_text(json.dumps(record))
    shutil.copytree(runs[1], runs[2])
    asked, seeds = f"{criterion}:brighter_right", (1, 2, 3, 4, 5, 6, 7)
    attack(runs[1], "paraphrase", count=2, seeds=seeds, criterion=asked)
    done = launch(
        "attack", "paraphrase", runs[2], "--count", "2", "--seeds", ",".join(map(str, seeds)),
        "--criterion", asked,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("paraphrase.json written") == 1
    reports = {
        processes: json.loads((run / "attacks" / "paraphrase.json").read_text())
        for processes, run in runs.items()
    }
    assert 0 < reports[1]["scores"]["ASR"]["value"] < 1
    assert reports[1]["scores"] == reports[2]["scores"]
    assert reports[1]["per_concept"] == reports[2]["per_concept"]
    assert len(list((runs[2] / "attacks" / "paraphrase" / "cat").glob("outcomes-*"))) == 2
    drawn = sorted(file.relative_to(runs[1]) for file in runs[1].rglob("*.png"))
    assert len(drawn) > 42  # with and without the edit, and what the attack drew
    assert drawn == sorted(file.relative_to(runs[2]) for file in runs[2].rglob("*.png"))
    for file in drawn:  # another batch rounds otherwise in the last bit
        first, second = (read_image(run / file).int() for run in runs.values())
        assert (first - second).abs().max() <= 1
