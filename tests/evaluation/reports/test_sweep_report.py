"""A sweep's report: methods over their cells, and what is not done."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from contract import TINY
from records import attacked, judged

from erasure.erasing import erase
from erasure.errors import SettingError
from evaluation.reports.reporting import report
from evaluation.sweeping.cells import cells_of, write_sweep
from evaluation.sweeping.grid import make_grid


@pytest.fixture(scope="module")
def sweep(listed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """esd on three concepts, of which one is attacked, and one of two seeds failed."""
    out = tmp_path_factory.mktemp("sweep")
    asked: dict[str, Any] = {"methods": ["esd"], "concepts": ["cat", "dog"], "seeds": [0, 1]}
    cells = cells_of(make_grid(asked))
    for cell, wrong in zip(cells, (4, 0, 8, None), strict=True):
        run = out / cell["name"]
        if wrong is None:
            cell["steps"][0] |= {"state": "failed", "line": f"no {run} there", "seconds": 3.0}
            continue
        for step in cell["steps"]:
            step |= {"state": "done", "seconds": 2.0}
        erase(str(listed), "esd", cell["concepts"], out=run, seed=cell["seed"], **TINY["esd"])
        judged(run, cell["concepts"][0], wrong=wrong)
    (out / cells[0]["name"] / "attacks").mkdir()
    attacked(out / cells[0]["name"])
    write_sweep(out, asked, cells)
    return out


def test_methods_are_compared_over_their_cells(sweep: Path, tmp_path: Path) -> None:
    page, record, table, marked = report([sweep], tmp_path / "sweep.html")
    told = json.loads(record.read_text())["sweep"]
    ((row,),) = told["methods"]["scores"]
    assert (row["method"], row["cells"]) == ("esd", 3)
    assert row["scores"]["UA"]["value"] == pytest.approx((0.75 + 1 + 0.5) / 3)
    assert (row["scores"]["UA"]["low"], row["scores"]["UA"]["high"]) == (0.5, 1.0)
    text = page.read_text()
    assert "75.0 <small>(50.0–100.0)</small>" in text
    assert "<td>cat</td><td>62.5</td>" in text  # of both seeds
    assert text.count('fill-opacity="0.28"') == 3  # a dot for each cell
    assert "Attacked by paraphrase" in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = {(row["run"], row["seed"]): row for row in rows if row["score"] == "UA"}
    assert float(found["esd/dog/seed-0", "0"]["value"]) == 1.0
    assert "| esd | 3 | 75.0 (50.0–100.0) |" in marked.read_text()


def test_what_is_not_done_is_told_without_paths(sweep: Path, tmp_path: Path) -> None:
    files = report([sweep], tmp_path / "sweep.html")
    for file in (files[0], files[1], files[3]):
        text = file.read_text()
        assert "erase: no" in text
        assert str(sweep.parent) not in text
    assert report([sweep], tmp_path / "sweep.html") == files  # over its own


def test_a_sweep_is_reported_alone(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="name it alone"):
        report([sweep, sweep / "esd/cat/seed-0"], tmp_path / "both.html")
    assert list(tmp_path.iterdir()) == []
