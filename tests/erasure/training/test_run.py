"""A run's files: states, logs, leftovers, and a folder that one command has at a time."""

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from erasure.errors import RunError, StorageError
from erasure.files.locking import alone_in
from erasure.files.storage import (
    HOST,
    append_line,
    atomic,
    read_lines,
    sweep,
    write_json,
    write_tensors,
)
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.run import Run
from erasure.training.run_folder import SAME_RUN, clear
from erasure_datasets.concept import Concept

DATA = {"source": "x", "images": 1, "test_images": 1, "shots": 0, "missing": []}
RECORD = {"command": "test", "method": "toy"}


def trained(folder: Path, steps: int, *, die_at: int | None = None) -> Run:
    """A few steps; `die_at` one of them as a kill does, with whatever state is there."""
    run = Run(folder, checkpoint_seconds=1e9)
    run.begin(RECORD)
    weight = nn.Parameter(torch.tensor([3.0]))

    def loss(step: int) -> dict[str, torch.Tensor]:
        if step == die_at:
            raise KeyboardInterrupt
        return {"erase": weight.square().sum()}

    fit(Learner(loss, {"w": weight}, 0.1), steps=steps, run=run)
    return run


def test_a_checkout_that_is_not_installed_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name == "erasure-toolkit":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr("erasure.version", version)
    monkeypatch.setattr("erasure.training.run_folder.version", version)
    trained(tmp_path, 1)
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["versions"]["erasure-toolkit"] == "unknown"


def test_a_stage_that_begins_again_has_its_lines_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, 9, die_at=5)
    assert [line["step"] for line in read_lines(tmp_path / "log.jsonl")] == [0, 1, 2, 3, 4]
    trained(tmp_path, 9)
    assert [line["step"] for line in read_lines(tmp_path / "log.jsonl")] == list(range(9))


def test_what_a_probe_saw_before_the_state_stays(tmp_path: Path) -> None:
    def go(*, die: bool) -> None:
        run = Run(tmp_path, checkpoint_seconds=0)
        run.begin(RECORD)
        run.watcher = lambda stage, step: run.log(stage, step, {"Acc_r": step / 10})
        weight = nn.Parameter(torch.tensor([3.0]))

        def loss(step: int) -> dict[str, torch.Tensor]:
            if die and step == 2:
                raise KeyboardInterrupt
            return {"erase": weight.square().sum()}

        fit(Learner(loss, {"w": weight}, 0.1), steps=4, run=run)

    with pytest.raises(KeyboardInterrupt):
        go(die=True)
    go(die=False)
    probes = [line["step"] for line in read_lines(tmp_path / "log.jsonl") if "Acc_r" in line]
    losses = [line["step"] for line in read_lines(tmp_path / "log.jsonl") if "erase" in line]
    assert (probes, losses) == ([1, 2, 3, 4], [0, 1, 2, 3])


def test_a_run_counts_its_own_seconds_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("erasure.training.run.time", SimpleNamespace(monotonic=lambda: now))
    run = Run(tmp_path)
    run.begin(RECORD)
    now += 60
    run.save_state("fit", 3, {})
    now += 5
    run.finish()
    assert json.loads((tmp_path / "config.json").read_text())["seconds"] == 65


def test_killed_at_the_very_end_the_run_keeps_its_seconds(tmp_path: Path) -> None:
    run = trained(tmp_path, 3)
    file = tmp_path / "state" / "fit.safetensors"
    write_tensors(file, {"x": torch.zeros(1)}, {"step": "3", "seconds": "500.0"})
    write_json(tmp_path / "edit.json", {})
    assert Run(tmp_path).begin(RECORD)
    assert json.loads((tmp_path / "config.json").read_text())["seconds"] >= 500
    assert not (tmp_path / "state").exists()
    (tmp_path / "state").mkdir()  # killed while it was removed
    assert run.begin(RECORD)
    assert not (tmp_path / "state").exists()


def test_a_state_of_another_shape_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, 3)
    run, weight = Run(tmp_path), nn.Parameter(torch.zeros(2))
    run.begin(RECORD)
    with pytest.raises(RunError, match=r"no state of this run \(learner\.weight\.w\)"):
        fit(Learner(lambda _: {"a": weight.sum()}, {"w": weight}, 0.1), steps=4, run=run)


def test_a_state_that_takes_long_is_written_seldom(tmp_path: Path) -> None:
    run = Run(tmp_path, checkpoint_seconds=0)
    assert run.is_due
    run._writing, run._saved = 10.0, run._saved + 0.0
    assert not run.is_due


@pytest.mark.parametrize("content", [b"[]", b"null", b"\0" * 9, b"\xe9", b"{", b"[" * 100_000])
def test_a_damaged_record_of_a_run_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(RunError, match=r"config\.json is not readable"):
        Run(tmp_path).begin(RECORD)
    assert (tmp_path / "config.json").read_bytes() == content


OTHERS = [
    ("method", "one", "two"),
    ("model", "one", "two"),
    ("base_digest", "one", "two"),
    ("onto", None, "two"),
    ("config", "one", "two"),
    ("concepts", [Concept("a", "object").as_json()], [Concept("b", "object").as_json()]),
    ("tasks", [["a"]], [["a"], ["b"]]),
    ("samples", ["1"], ["2"]),
    ("random_share", 0.1, 0.2),
    ("true_labels", ["cat"], ["dog"]),
    ("keep", ["1"], ["2"]),
    ("data", {**DATA, "source": "one"}, {**DATA, "source": "two"}),
    ("settings", {"steps": 1}, {"steps": 2}),
    ("inputs", {"a": "one"}, {"a": "two"}),
    ("seed", 0, 1),
    ("mixed_precision", "no", "bf16"),
    ("use_8bit_adam", False, True),
    ("allow_tf32", False, True),
    ("processes", 1, 2),
]


@pytest.mark.parametrize(("key", "old", "new"), OTHERS)
def test_what_makes_another_run(tmp_path: Path, key: str, old: object, new: object) -> None:
    Run(tmp_path).begin({**RECORD, key: old})
    with pytest.raises(RunError, match=f"its {key}"):
        Run(tmp_path).begin({**RECORD, key: new})


def test_every_word_that_makes_another_run_is_tried() -> None:
    assert [key for key, *_ in OTHERS] == list(SAME_RUN)


def test_a_resumed_run_tells_its_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("erasure.training.trackers.get_available_trackers", lambda: ["tensorboard"])
    monkeypatch.setattr(
        "erasure.training.run.Accelerator.init_trackers", lambda *_, **__: told.append("on")
    )
    monkeypatch.setattr("accelerate.accelerator.filter_trackers", lambda *_: [])
    for count in (1, 2):
        Run(tmp_path, report_to="tensorboard").begin(RECORD)
        assert len(told) == count


def test_a_killed_process_lets_go_and_is_swept_up_after(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from erasure.files.locking import alone_in
from erasure.files.storage import atomic
with alone_in(Path({str(tmp_path)!r})), atomic(Path({str(tmp_path / "deep" / "a.png")!r})) as file:
    file.write_text("half")
    with atomic(Path({str(tmp_path / "folder")!r})) as folder:
        folder.mkdir()
        os.kill(os.getpid(), signal.SIGKILL)
"""
    died = subprocess.run([sys.executable, "-c", program], env={**os.environ}, check=False)
    assert died.returncode == -signal.SIGKILL
    assert len([*tmp_path.rglob("*.tmp")]) == 2
    (tmp_path / f".other.{HOST}-{os.getpid()}.tmp").write_text("a living process's")
    (tmp_path / ".other.elsewhere-1.tmp").write_text("another machine's")
    with alone_in(tmp_path):
        assert len([*tmp_path.rglob("*.tmp")]) == 2
    with atomic(tmp_path / "folder") as folder:
        folder.mkdir()
    assert (tmp_path / "folder").is_dir()
    (tmp_path / ".tmpA1b2C3").write_text("safetensors' own, in a folder that is held alone")
    sweep(tmp_path)
    assert not (tmp_path / ".tmpA1b2C3").exists()
    assert not (tmp_path / ".lock").exists()


def test_a_folder_that_stays_empty_goes_again(tmp_path: Path) -> None:
    with alone_in(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a" / "b").exists()


def test_lines_survive_what_a_kill_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    append_line(file, {"step": 0})
    with file.open("ab") as stream:
        stream.write(b'{"step": 1, "er')
    append_line(file, {"step": 2})
    with file.open("ab") as stream:
        stream.write(b'null\n\xe9\n[1]\n{"a": ' + b"[" * 10_000 + b"\n")
    append_line(file, {"step": 3})
    assert read_lines(file) == [{"step": 0}, {"step": 2}, {"step": 3}]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_json_does_not_have_is_not_written(tmp_path: Path, value: object) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})
    with pytest.raises(StorageError, match=r"could not write .*a\.json: "):
        write_json(file, {"a": value})
    assert os.listdir(tmp_path) == ["a.json"]
    assert json.loads(file.read_text()) == {"a": 1}


def test_a_module_of_a_method_is_fixed_by_seed_and_name(tmp_path: Path) -> None:
    def built(name: str, seed: int = 0) -> torch.Tensor:
        return Run(tmp_path, seed=seed).module(name, lambda: nn.Linear(3, 3)).weight

    before = torch.get_rng_state()
    first = built("critic")
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, built("critic"))
    assert not torch.equal(first, built("other"))
    assert not torch.equal(first, built("critic", seed=1))
    assert not first.requires_grad


def test_a_stage_of_one_line_is_said_once(tmp_path: Path) -> None:
    for _ in range(2):  # the second time a resumed run comes past it
        Run(tmp_path).log_end("groups 0", 5, {"block 0": 0.5})
        Run(tmp_path).log("later", 0, {"loss": 1.0})
    stages = [line["stage"] for line in read_lines(tmp_path / "log.jsonl")]
    assert stages == ["groups 0", "later", "later"]


def test_a_run_with_measured_requests_stays_one(tmp_path: Path) -> None:
    """It had learned and failed to write the edit: the same command finishes it."""
    for name in ("config.json", "log.jsonl", "requests.json"):
        (tmp_path / name).write_text("{}")
    clear(tmp_path)
    assert (tmp_path / "config.json").is_file()
    (tmp_path / "requests.json").unlink()
    clear(tmp_path)
    assert not tmp_path.exists()
