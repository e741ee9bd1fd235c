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
