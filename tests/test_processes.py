"""Two processes with half the batch each take the same path as one with all of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from erasure.storage import read_tensors

SETTINGS = [
    "--kind", "object", "--anchor", "dog", "--steps", "4", "--batch-size", "4",
    "--learning-rate", "1e-3", "--forget-images", "4", "--retain-images", "4",
    "--sampling-steps", "2", "--concept", "cat",
]  # fmt: skip


def launch(processes: int, model: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` for two; its --multi_gpu stands for "several processes", on CPUs too."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "accelerate.commands.launch", "--multi_gpu", "--main_process_port", "0"]
        launcher += ["--num_processes", str(processes), "--num_machines", "1"]
    command = ["-m", "erasure", "erase", "salun", "--model", str(model), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, *command, *SETTINGS, *more],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=300,
    )


def test_two_ranks_take_the_path_of_one(sd1: Path, tmp_path: Path) -> None:
    one = launch(1, sd1, tmp_path / "one")
    assert one.returncode == 0, one.stderr
    mask = str(tmp_path / "one" / "mask.safetensors")
    fixed = launch(1, sd1, tmp_path / "fixed", "--mask", mask)
    assert fixed.returncode == 0, fixed.stderr
    two = launch(2, sd1, tmp_path / "two", "--mask", mask)
    assert two.returncode == 0, two.stderr
    assert json.loads((tmp_path / "two" / "config.json").read_text())["processes"] == 2
    single, _ = read_tensors(tmp_path / "fixed" / "edit.safetensors")
    double, _ = read_tensors(tmp_path / "two" / "edit.safetensors")
    from erasure.models.load import load_model

    base = load_model(str(sd1)).parameters()
    assert single.keys() == double.keys()
    updates = [(single[n] - base[n].detach(), double[n] - base[n].detach()) for n in single]
    first = torch.cat([a.flatten() for a, _ in updates])
    second = torch.cat([b.flatten() for _, b in updates])
    moved = first != 0
    near = (first - second).abs()[moved] <= 0.01 * first.abs()[moved]
    assert near.float().mean() >= 0.999


def test_a_batch_that_does_not_divide_is_refused(sd1: Path, tmp_path: Path) -> None:
    done = launch(2, sd1, tmp_path / "odd", "--batch-size", "3")
    assert done.returncode != 0
    assert "batch_size must be a multiple of the 2 processes; got 3." in done.stderr
