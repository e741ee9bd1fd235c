"""The report: one page that needs nothing else, and figures that agree with the scores' files."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch

from erasure.edit import Edit
from erasure.erasing import erase
from erasure.errors import EditError, SettingError
from erasure.models.load import load_model
from evaluation.protocols import pocket
from evaluation.report import report
from evaluation.score import interval


def judged(run: Path, concept: str, *, wrong: int, guidance: float = 3.0) -> None:
    """Scores as an evaluation writes them, from made-up labels: `wrong` target images survive."""
    model = load_model("pocket")
    found = model.catalogue.concept(concept)  # type: ignore[union-attr]
    chosen = pocket.plan((188,), None, [])
    pairs = pocket.catalogue().pairs()
    labels, left = {}, wrong
    for key in chosen:
        name, style = pairs[key[1]]
        seen = pocket.catalogue().objects.index(name)
        if name == concept:
            seen, left = (seen, left - 1) if left > 0 else ((seen + 1) % 16, left)
        labels[key] = (seen, pocket.catalogue().styles.index(style), 0.5)
    scores, per = pocket.score(labels, [found])
    record = {
        "protocol": "pocket",
        "scores": {k: vars(v) for k, v in scores.items()},
        "per_concept": {n: {k: vars(v) for k, v in own.items()} for n, own in per.items()},
        "baseline": {k: vars(v) for k, v in scores.items()},
        "stamp": {**pocket.stamp(chosen), "guidance": guidance},
        "labels": [[seed, index, *labels[seed, index][:2]] for seed, index in chosen],
    }
    (run / "scores").mkdir()
    (run / "scores" / "pocket.json").write_text(json.dumps(record))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    for name, wrong, guidance in (("best", 0, 3.0), ("worse", 4, 3.0), ("other", 0, 7.0)):
        erase("pocket", "uce", ["cat"], out=root / name)
        judged(root / name, "cat", wrong=wrong, guidance=guidance)
    return [root / "worse", root / "best", root / "other"]


def test_one_page_without_addresses_and_the_same_figures_beside_it(
    runs: list[Path], tmp_path: Path
) -> None:
    files = report(runs, tmp_path / "all.html")
    assert [file.suffix for file in files] == [".html", ".json", ".csv", ".md"]
    page = files[0].read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "75.0" in page  # 12 of the 16 in `worse`
    with files[2].open(newline="") as stream:
        table = list(csv.DictReader(stream))
    value = {(Path(row["run"]).name, row["score"]): row for row in table}
    assert float(value["worse", "UA"]["value"]) == 0.75
    assert float(value["best", "UA"]["value"]) == 1.0
    assert float(value["best", "UA"]["high"]) == 1.0
    assert 0.75 < float(value["best", "UA"]["low"]) < 0.85  # 16 of 16 is no certainty
    assert "| worse" in files[3].read_text().replace(str(runs[0].parent) + "/", "")


def test_unlike_stamps_are_not_ranked_together(runs: list[Path], tmp_path: Path) -> None:
    groups = json.loads(report(runs, tmp_path / "all.html")[1].read_text())["groups"]
    assert [[row["name"] for row in group["rows"]] for group in groups] == [
        ["best", "worse"],
        ["other"],
    ]
    assert groups[0]["differs"] == []
    assert groups[1]["differs"] == ["guidance: 3.0 there, 7.0 here"]
    page = (tmp_path / "all.html").read_text()
    assert "guidance: 3.0 there, 7.0 here" in page


def test_it_says_what_was_seen_instead_and_which_tensors_moved(
    runs: list[Path], tmp_path: Path
) -> None:
    record = json.loads(report([runs[0]], tmp_path / "one.html")[1].read_text())["runs"][0]
    assert record["scores"]["pocket"]["seen"] == {"cat": [["dog", 12], ["cat", 4]]}
    base, edit = load_model("pocket").parameters(), Edit.load(runs[0])
    for entry in record["tensors"]:
        old = base[entry["name"]].detach().double()
        want = (edit.tensors[entry["name"]].double() - old).norm() / old.norm()
        assert entry["change"] == pytest.approx(float(want), rel=1e-3)
    changes = [entry["change"] for entry in record["tensors"]]
    assert changes == sorted(changes, reverse=True)


def test_a_run_without_scores_is_still_reported_and_one_without_edit_is_not(
    tmp_path: Path,
) -> None:
    erase("pocket", "uce", ["cat"], out=tmp_path / "bare")
    page = report([tmp_path / "bare"], tmp_path / "bare.html")[0].read_text()
    assert "Not evaluated yet" in page
    with pytest.raises(EditError, match="holds no finished erasure"):
        report([tmp_path / "none"], tmp_path / "no.html")
    with pytest.raises(SettingError, match=r"must end in \.html"):
        report([tmp_path / "bare"], tmp_path / "page.pdf")
    with pytest.raises(SettingError, match="at least one run"):
        report([], tmp_path / "no.html")
    assert not (tmp_path / "no.html").exists()


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    for p, n in ((0.97, 32), (0.9, 32), (0.5, 100)):
        hits = (torch.rand(4000, n, generator=generator) < p).float().mean(1).tolist()
        covered = [
            low <= p <= high
            for low, high in (interval(h, (h * (1 - h) / n) ** 0.5, n, is_rate=True) for h in hits)
        ]
        assert sum(covered) / len(covered) >= 0.92
