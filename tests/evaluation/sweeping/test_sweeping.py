"""Scheduling, with stubs: what runs, at once and again; what fails; what Ctrl-C and kills leave."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from erasure.errors import RunError, SettingError
from erasure.files.storage import file_digest, write_json
from erasure.inputs import inputs
from evaluation.sweeping import bound
from evaluation.sweeping import sweep as sweeping
from evaluation.sweeping.cells import cells_of, record_file, state_of
from evaluation.sweeping.chain import last_line, run_cell
from evaluation.sweeping.grid import Grid, make_grid
from evaluation.sweeping.local import share
from evaluation.sweeping.summary import failures, rows
from evaluation.sweeping.sweep import Where, sweep

pytestmark = pytest.mark.usefixtures("stubbed")


def grid(count: int = 4, **more: Any) -> Grid:
    return make_grid(
        {
            "methods": ["esd"],
            "concepts": ["bear"],
            "seeds": list(range(count)),
            "quick": True,
            **more,
        }
    )


def begun(folder: Path) -> list[list[Any]]:
    return [json.loads(file.read_text()) for file in (folder / "begun").iterdir()]


def states(out: Path) -> list[str]:
    return [cell["state"] for cell in json.loads((out / "sweep.json").read_text())["cells"]]


def test_what_is_done_is_passed_over_and_new_cells_are_added(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    assert {state_of(cell) for cell in sweep(grid(2), out)["cells"]} == {"done"}
    assert len(begun(tmp_path)) == 2
    sweep(grid(2), out)
    assert len(begun(tmp_path)) == 2
    sweep(grid(3), out)
    assert sorted(name for name, *_ in begun(tmp_path)) == [f"esd/bear/seed-{n}" for n in range(3)]
    (out / "esd/bear/seed-1/edit.json").unlink()
    sweep(grid(3, attacks=["noise"]), out, Where(jobs=2))
    assert len(begun(tmp_path)) == 6  # one had lost its edit, and all lacked the attack
    (row, *_) = rows(out, sweeping.read_sweep(out))
    assert (row["UA"], row["ASR noise"], row["state"]) == ("50.0", "25.0", "done")
    file = out / "esd/bear/seed-0/attacks/noise.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"is_cut_by_budget": True}))
    assert rows(out, sweeping.read_sweep(out))[0]["ASR noise"] == "25.0 (cut)"


def test_a_failed_cell_is_told_with_its_last_line_and_tried_again(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    (tmp_path / "fails").write_text("esd/bear/seed-1")
    record = sweep(grid(3), out)
    assert states(out) == ["done", "failed", "done"]
    assert failures(record) == ["esd/bear/seed-1: erase: it was asked to fail"]
    (tmp_path / "fails").unlink()
    assert failures(sweep(grid(3), out)) == []
    assert len(begun(tmp_path)) == 4


def test_jobs_share_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.sweeping.local.cores", lambda: 5)
    monkeypatch.setattr(sweeping, "cards", lambda: ["3", "7"])
    sweep(grid(4), tmp_path / "sweep", Where(jobs=2))
    found = begun(tmp_path)
    assert {threads for _, threads, *_ in found} == {"2"}
    assert {card for _, _, card, _ in found} == {"3", "7"}
    first, second, *_ = sorted(entry[-1] for entry in found)
    assert second - first < 0.2  # a cell takes as long: they ran at once
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert share(0, 2, [])["OMP_NUM_THREADS"] == "1"
    assert share(2, 3, ["0", "1"], cpus=4) == {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "0"}


def test_ctrl_c_ends_the_cells_and_the_same_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sweep"
    (tmp_path / "waits").touch()
    started, end = list[Any](), time.monotonic() + 60
    launch = sweeping.launch

    def launched(*words: Any) -> Any:
        started.append(launch(*words))
        return started[-1]

    def interrupted(*_: Any) -> None:
        assert time.monotonic() < end, "two cells have not begun"
        if len(list((tmp_path / "begun").glob("*"))) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(sweeping, "launch", launched)
    with monkeypatch.context() as patched:
        patched.setattr(sweeping._Progress, "look", interrupted)
        patched.setattr("evaluation.sweeping.local.time.sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sweep(grid(3), out, Where(jobs=2))
    assert [child.poll() is not None for child in started] == [True, True]
    assert states(out) == ["missing"] * 3
    assert not (out / ".lock").exists()
    (tmp_path / "waits").unlink()
    assert {state_of(cell) for cell in sweep(grid(3), out, Where(jobs=2))["cells"]} == {"done"}


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a process of its parent's end"
)
def test_a_killed_sweep_takes_its_cells_with_it(
    tmp_path: Path, stubbed: Callable[[Path, str], list[str]]
) -> None:
    out, name = tmp_path / "sweep", "esd/bear/seed-0"
    (tmp_path / "waits").touch()
    write_json(record_file(out, name), cells_of(grid(1))[0])
    child = [sys.executable, "-I", "-S", bound.__file__]
    parent = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen({child!r} + [str(os.getpid())] + {stubbed(out, name)!r})\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        until(lambda: (tmp_path / "begun" / str(number)).is_file())
        process.send_signal(signal.SIGKILL)
    until(lambda: not is_alive(number))


def until(is_so: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_alive(number: int) -> bool:
    """Whether a process runs; one that ended and that nobody asked after does not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_cell_is_told_by_the_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = [sys.executable, "-I", "-S", "-c", "import os; os.kill(os.getpid(), 9)"]
    monkeypatch.setattr(sweeping, "command", lambda *_: killed)
    assert failures(sweep(grid(1), tmp_path / "sweep")) == [
        "esd/bear/seed-0: erase: killed by SIGKILL"
    ]


def test_a_cell_that_was_killed_when_all_was_done_is_done(
    tmp_path: Path,
    stubbed: Callable[[Path, str], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed_late(out: Path, name: str) -> list[str]:
        *python, stub, place, cell = stubbed(out, name)
        return [*python, f"{stub}\nos.kill(os.getpid(), 9)", place, cell]

    monkeypatch.setattr(sweeping, "command", killed_late)
    assert {state_of(cell) for cell in sweep(grid(1), tmp_path / "sweep")["cells"]} == {"done"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"on": "slurm"}, "on must be local or ray; got 'slurm'"),
        ({"jobs": 0}, "jobs must be at least 1; got 0"),
        ({"on": "ray", "jobs": 2}, "jobs has no effect with --on ray"),
        ({"address": "auto"}, "address has no effect with --on local"),
        ({"on": "ray", "gpus": -0.5}, "gpus must be at least 0"),
    ],
)
def test_where_is_checked(given: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingError, match=told):
        Where(**given)


def test_without_ray_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError, match=r"pip install 'erasure-toolkit\[ray\]'"):
        sweep(grid(1), tmp_path / "sweep", Where(on="ray"))
    assert list(tmp_path.iterdir()) == []


def test_two_sweeps_at_once_and_a_place_inside_a_run(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    with sweeping.alone_in(out), pytest.raises(RunError, match="another process is at work"):
        sweep(grid(1), out)
    (tmp_path / "edit.json").touch()
    with pytest.raises(SettingError, match="out must be no part of a run"):
        sweep(grid(1), tmp_path / "images" / "sweep")


class Commands:
    """Stands for the program: a step's exit code by its word."""

    def __init__(self, out: Path, **codes: int) -> None:
        self.out, self.codes, self.ran = out, codes, list[str]()

    def __call__(self, words: Any) -> int:
        word = words[1] if words[0] == "attack" else words[0]
        self.ran.append(word)
        folder = self.out / "esd" / "bear" / "seed-0"
        assert str(folder) in words
        left = {"erase": "edit.json", "evaluate": "scores/pocket.json"}.get(word)
        file = folder / (left or f"attacks/{word}.json")
        if not (code := self.codes.get(word, 0)):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return code


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    (one,) = cells_of(grid(1, attacks=["noise", "p4d"]))
    write_json(record_file(tmp_path, one["name"]), one)
    return tmp_path


def test_a_chain_does_what_is_left(cell: Path) -> None:
    name, every = "esd/bear/seed-0", ["erase", "evaluate", "noise", "p4d"]
    first = Commands(cell, evaluate=2)
    assert run_cell(cell, name, first) == 2
    assert first.ran == every  # an attack needs no evaluation
    again = Commands(cell)
    assert run_cell(cell, name, again) == 0
    assert again.ran == ["evaluate"]
    steps = json.loads(record_file(cell, name).read_text())["steps"]
    assert [step["file"] for step in steps] == [
        "edit.json", "scores/pocket.json", "attacks/noise.json", "attacks/p4d.json",
    ]  # fmt: skip
    (cell / name / "edit.json").unlink()
    whole = Commands(cell)
    assert run_cell(cell, name, whole) == 0
    assert whole.ran == every  # another edit is judged anew


def test_an_erasure_that_read_another_file_is_asked_again(cell: Path) -> None:
    """Whose command says what has changed: an old figure does not stand beside new ones."""
    name, kept, plugin = "esd/bear/seed-0", cell / "kept.txt", cell / "own.py"
    kept.write_text("a boat\n")
    plugin.write_text("x = 1\n")
    assert run_cell(cell, name, Commands(cell)) == 0
    settings = {"retain_prompts": str(kept)}
    digests = inputs(settings) | {str(plugin): file_digest(plugin)}
    write_json(cell / name / "config.json", {"settings": settings, "inputs": digests})
    assert run_cell(cell, name, Commands(cell, erase=2)) == 0  # nothing is asked
    for file, text in ((kept, "a ship\n"), (plugin, "x = 2\n")):
        old = file.read_text()
        file.write_text(text)
        again = Commands(cell, erase=2)
        assert run_cell(cell, name, again) == 2
        assert again.ran == ["erase"]
        file.write_text(old)
        assert run_cell(cell, name, Commands(cell)) == 0


@pytest.mark.parametrize(("code", "state"), [(2, "failed"), (130, "missing")])
def test_a_chain_ends_without_an_erasure(cell: Path, code: int, state: str) -> None:
    run = Commands(cell, erase=code)
    assert run_cell(cell, "esd/bear/seed-0", run) == code
    assert run.ran == ["erase"]
    steps = json.loads(record_file(cell, "esd/bear/seed-0").read_text())["steps"]
    assert [step["state"] for step in steps] == [state, "missing", "missing", "missing"]


def test_the_last_line_is_the_last_with_anything_in_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_line(log) == ""
    log.write_bytes(b"first\nbar 1\rbar 2\rerror: \xff no\n\n  \n")
    assert last_line(log) == "error: � no"
    assert last_line(log, log.stat().st_size) == ""
