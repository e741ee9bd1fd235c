"""The sweep that is timed: its evaluations are ones that the protocol takes."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import sweep_speed

from evaluation.drawing.pocket_plan import SEEDS, catalogue, plan


def test_each_cell_is_judged_on_so_many_images() -> None:
    grid = sweep_speed.grid_of(16)
    for names in grid.concepts:
        concepts = [catalogue().concept(name) for name in names]
        subset = int(str(grid.evaluation["subset"]))
        assert len(plan(SEEDS[:1], subset, concepts)) == sweep_speed.IMAGES


def test_an_odd_number_of_cells_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sweep_speed.py", "--cells", "3"])
    with pytest.raises(SystemExit):
        sweep_speed.main()
    assert "cells must be even" in capsys.readouterr().err


def test_a_missing_ray_is_refused_before_a_cell_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "speed"
    monkeypatch.setattr(sys, "argv", ["sweep_speed.py", "--on", "ray", "--out", str(out)])
    monkeypatch.setattr(sweep_speed.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SystemExit) as ended:
        sweep_speed.main()
    assert ended.value.code == 2
    assert "pip install 'erasure-toolkit[ray]'" in capsys.readouterr().err
    assert not out.exists()
