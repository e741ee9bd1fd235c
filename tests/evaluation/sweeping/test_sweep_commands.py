"""Cells with the real commands: what a cell makes is what the commands make, killed or not."""

import json
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from erasure.erasing import erase
from erasure.files.storage import file_digest, write_json
from evaluation.sweeping import sweep as sweeping
from evaluation.sweeping.cells import cells_of, record_file, state_of
from evaluation.sweeping.chain import erasure_command, run_cell
from evaluation.sweeping.grid import make_grid
from evaluation.sweeping.sweep import Where, sweep


def test_a_chain_runs_the_ordinary_commands(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [])
    judged = {"protocol": "prompts", "steps": 1, "keep": 1, "seeds": [188], "neighbours": "none"}
    asked = {"model": str(listed), "methods": ["uce"], "concepts": ["cat"], "evaluation": judged}
    (cell,) = cells_of(make_grid(asked))
    file, run = record_file(tmp_path, cell["name"]), tmp_path / cell["name"]
    write_json(file, cell)
    assert run_cell(tmp_path, cell["name"], erasure_command) == 0
    steps = json.loads(file.read_text())["steps"]
    assert [step["file"] for step in steps] == ["edit.json", "scores/prompts-seeds-188.json"]
    erase(str(listed), "uce", "cat", out=tmp_path / "alone")
    alone, own = (place / "edit.safetensors" for place in (tmp_path / "alone", run))
    assert file_digest(alone) == file_digest(own)
    cell["steps"][0]["command"].insert(2, "--anchor=nothing-like-it")
    write_json(file, cell)
    assert run_cell(tmp_path, cell["name"], erasure_command) == 2  # the run there is another


@pytest.mark.slow
def test_a_killed_cell_resumes_in_the_same_bits(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = make_grid({
        "model": str(listed), "methods": ["esd"], "concepts": ["cat"], "evaluate": False,
        "settings": {"steps": 60, "sampling_steps": 4, "checkpoint_seconds": 0},
    })  # fmt: skip
    name, started, launch = "esd/cat/seed-0", [], sweeping.launch

    def launched(*words: object) -> object:
        started.append(launch(*words))  # type: ignore[arg-type]
        return started[-1]

    def kill() -> None:
        log, end = tmp_path / "killed" / name / "log.jsonl", time.monotonic() + 240
        while not (log.is_file() and log.read_text().count("\n") > 4) and time.monotonic() < end:
            time.sleep(0.05)
        started[0].send_signal(signal.SIGKILL)

    monkeypatch.setattr(sweeping, "launch", launched)
    thread = threading.Thread(target=kill)
    thread.start()
    (cell,) = sweep(grid, tmp_path / "killed", Where(cpus=1))["cells"]
    thread.join()
    assert (state_of(cell), cell["steps"][0]["line"]) == ("failed", "killed by SIGKILL")
    (cell,) = sweep(grid, tmp_path / "killed", Where(cpus=1))["cells"]
    assert state_of(cell) == "done"
    sweep(grid, tmp_path / "whole", Where(cpus=1))
    digests = {
        file_digest(tmp_path / out / name / "edit.safetensors") for out in ("killed", "whole")
    }
    assert len(digests) == 1
