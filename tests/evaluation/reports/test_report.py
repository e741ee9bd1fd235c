"""The report: one page that needs nothing else, and figures that agree with the scores' files."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from records import attacked, judged

from erasure.commandline.printing import print_scores
from erasure.edit import Edit
from erasure.erasing import erase
from erasure.errors import EditError, ErasureError, RunError, SettingError
from erasure.forgetting import Data, forget
from erasure.models.diffusion.load import load_model
from erasure.training.run_folder import run_record
from erasure_datasets.unlearncanvas import THEMES
from evaluation.evaluating import evaluate
from evaluation.reports import page as page_module
from evaluation.reports.comparing import _comparable_attacks, compare
from evaluation.reports.facts import asks_for, facts
from evaluation.reports.ranking import differences, rankings
from evaluation.reports.reporting import report, rows
from evaluation.score import interval


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
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#run-)""", page)
    assert "<script" not in page
    assert "default-src 'none'" in page
    assert "75.0" in page  # 12 of the 16 in `worse`
    with files[2].open(newline="") as stream:
        table = list(csv.DictReader(stream))
    value = {(Path(row["run"]).name, row["score"]): row for row in table}
    assert float(value["worse", "UA"]["value"]) == 0.75
    assert float(value["best", "UA"]["value"]) == 1.0
    assert float(value["best", "UA"]["high"]) == 1.0
    assert 0.75 < float(value["best", "UA"]["low"]) < 0.85  # 16 of 16 is no certainty
    assert "| worse" in files[3].read_text().replace(str(runs[0].parent) + "/", "")


def test_runs_are_ordered_by_the_scores_that_all_of_them_have() -> None:
    """Of two runs of one protocol the one with a single request has no Acc_o."""

    def run(name: str, **values: float) -> dict:
        scores = {key: {"value": v, "low": None, "high": None} for key, v in values.items()}
        about = dict.fromkeys(("run", "method", "concepts", "seconds", "peak_memory_gb",
                               "storage_mb"))  # fmt: skip
        record = {"scores": scores, "baseline": {}, "stamp": {}}
        return {**about, "name": name, "scores": {"class-forgetting": record}}

    found = [run("two", Acc_f=0.1, Acc_o=0.0, Acc_r=0.8), run("one", Acc_f=0.0, Acc_r=0.9)]
    for given in (found, found[::-1]):
        (group,) = rankings(given)
        assert [row["name"] for row in group["rows"]] == ["one", "two"]
        assert group["order"] == "the mean of 1 − Acc_f and Acc_r"


def test_unlike_stamps_are_not_ranked_together(runs: list[Path], tmp_path: Path) -> None:
    groups = json.loads(report(runs, tmp_path / "all.html")[1].read_text())["groups"]["scores"]
    assert [[row["name"] for row in group["rows"]] for group in groups] == [
        ["best", "worse"],
        ["other"],
    ]
    assert groups[0]["differs"] == []
    assert groups[1]["differs"] == ["guidance: 3.0 there, 7.0 here"]
    page = (tmp_path / "all.html").read_text()
    assert "guidance: 3.0 there, 7.0 here" in page
    with (tmp_path / "all.csv").open(newline="") as stream:
        stamps = {Path(row["run"]).name: row["stamp"] for row in csv.DictReader(stream)}
    assert stamps["best"] == stamps["worse"] != stamps["other"]


def test_excess_over_two_gold_models_is_not_ranked_together() -> None:
    """An attack without gold goes with either: its own rates are the same."""

    def run(name: str, **gold: str) -> dict:
        scores = {"ASR": {"value": 0.5, "low": None, "high": None}}
        about = dict.fromkeys(("run", "method", "concepts", "seconds", "peak_memory_gb",
                               "storage_mb"))  # fmt: skip
        record = {"scores": scores, "stamp": {"attack": "noise", "edit": name, **gold}}
        return {**about, "name": name, "attacks": {"noise": record}}

    found = [run("bare"), run("one", gold="a"), run("other", gold="b"), run("third", gold="a")]
    first, second = rankings(found, "attacks")
    assert {row["name"] for row in first["rows"]} == {"bare", "one", "third"}
    assert {row["name"] for row in second["rows"]} == {"other"}
    assert second["differs"] == ["gold: a there, b here"]
    assert "noise" in _comparable_attacks(found)


@pytest.mark.parametrize("field", ["seeds", "attack", "settings", "versions", "criterion"])
def test_whatever_a_stamp_says_of_how_it_was_judged_parts_the_ranking(field: str) -> None:
    """But for what was judged; and of attacks the run that fell least stands first."""

    def run(name: str, value: float, **more: str) -> dict:
        scores = {"ASR": {"value": value, "low": None, "high": None}}
        about = dict.fromkeys(("run", "method", "concepts", "seconds", "peak_memory_gb",
                               "storage_mb"))  # fmt: skip
        stamp = {"attack": "noise", "edit": name, "concepts": [name], **more}
        return {**about, "name": name, "attacks": {"noise": {"scores": scores, "stamp": stamp}}}

    found = [run("worse", 0.5), run("best", 0.1), run("apart", 0.0, **{field: "another"})]
    first, second = rankings(found, "attacks")
    assert [row["name"] for row in first["rows"]] == ["best", "worse"]
    assert [row["name"] for row in second["rows"]] == ["apart"]


def test_attacks_of_two_runs_share_a_stamp_in_the_table() -> None:
    """The edit and the concepts are the run's own columns."""
    score = {"value": 0.5, "low": 0.0, "high": 1.0, "n": 4, "higher_is_better": False}

    def run(name: str, tries: int) -> dict:
        stamp = {"settings": {"tries": tries}, "edit": name, "concepts": [name]}
        record = {"scores": {"ASR": score}, "baseline": {}, "stamp": stamp}
        about = dict.fromkeys(("run", "method", "seconds", "peak_memory_gb", "storage_mb"), 1)
        return {**about, "name": name, "run": name, "concepts": [name], "scores": {},
                "attacks": {"noise": record}}  # fmt: skip

    one, other, third = (row["stamp"] for row in rows([run("a", 1), run("b", 1), run("c", 2)]))
    assert one == other != third


def test_it_says_what_was_seen_instead_and_which_tensors_moved(
    runs: list[Path], tmp_path: Path
) -> None:
    record = json.loads(report([runs[0]], tmp_path / "one.html")[1].read_text())["runs"][0]
    assert record["scores"]["pocket"]["seen"] == {"cat": [["dog", 12], ["cat", 4]]}
    confusion = record["scores"]["pocket"]["confusion"]
    assert confusion["objects"]["mistakes"] == ["cat as dog 12×"]
    assert confusion["styles"]["mistakes"] == []
    assert sum(map(sum, confusion["objects"]["counts"])) == 256
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
    with pytest.raises(SettingError, match="is named twice"):
        report([tmp_path / "bare"] * 2, tmp_path / "no.html")
    (tmp_path / "bare" / "scores").mkdir()
    (tmp_path / "bare" / "scores" / "pocket.json").write_text("{")
    with pytest.raises(RunError, match=r"pocket\.json is not readable"):
        report([tmp_path / "bare"], tmp_path / "no.html")
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


def test_scores_that_nobody_named_are_shown_as_they_are(tmp_path: Path) -> None:
    run = tmp_path / "run"
    erase("pocket", "uce", ["cat"], out=run)
    (run / "scores").mkdir()
    novel = {"value": 17.25, "stderr": 0.0, "n": 40, "higher_is_better": False}
    bare = {"value": 0.25}
    record = {"protocol": "novel", "scores": {"Novelty": novel, "Bare": bare}, "stamp": {"a": 1}}
    (run / "scores" / "novel.json").write_text(json.dumps(record))
    files = report([run], tmp_path / "one.html")
    page = files[0].read_text()
    for word in ("Novelty", "17.25", "lower is better", "no interval, n = 40", "not measured"):
        assert word in page
    with files[2].open(newline="") as stream:
        table = {row["score"]: row for row in csv.DictReader(stream)}
    assert (table["Novelty"]["value"], table["Novelty"]["low"]) == ("17.25", "")
    assert (table["Bare"]["value"], table["Bare"]["n"]) == ("0.25", "")


def test_runs_stand_between_gold_and_the_un_erased_model(runs: list[Path], tmp_path: Path) -> None:
    def score(value: float) -> dict[str, float | int | bool]:
        return {"value": value, "n": 16, "stderr": 0.01, "higher_is_better": False}

    places = {"worse": 0.4, "best": 0.0}
    for name, value in places.items():
        shutil.copytree(runs[0].with_name(name), tmp_path / name)
        record = {
            "protocol": "gold",
            "scores": {"divergence": score(value), "relearn_ratio": score(1 - value)},
            "baseline": {"divergence": score(0.8)},
            "per_concept": {},
            "stamp": {"protocol": "gold"},
            "floor": {"cat": {"divergence": score(0.2)}, "dog": {"divergence": score(-0.4)}},
        }
        (tmp_path / name / "scores" / "gold.json").write_text(json.dumps(record))
    page = report([tmp_path / name for name in places], tmp_path / "all.html")[0].read_text()
    (compared,) = re.findall(r"<h2>Compared under gold</h2>.*?</section>", page, re.DOTALL)
    svg = compared[compared.index("never knew the concept and the un-erased one") :]
    gold, untouched = (float(x) for x in re.findall(r'class="level" x1="([0-9.]+)"', svg))
    across = [float(x) for x in re.findall(r'circle class="point" cx="([0-9.]+)"', svg)]
    whole = untouched - gold
    assert [(x - gold) / whole for x in across] == pytest.approx([0.5, 0, 0.4, 0], abs=0.002)
    (floor,) = re.findall(r'class="floor" x1="([0-9.]+)" x2="([0-9.]+)"', svg)
    ends = [(float(x) - gold) / whole for x in floor]
    assert ends == pytest.approx([-0.375, 0.375], abs=0.002)


def test_attacks_stand_beside_their_controls_with_three_pictures_of_a_case(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    erase("pocket", "uce", ["cat"], out=run)
    attacked(run)
    file = run / "attacks" / "paraphrase.json"
    record = json.loads(file.read_text())
    for name, value in (("ASR_gold", 0.625), ("excess", -0.125)):
        record["scores"][name] = {"value": value, "n": 8, "higher_is_better": False}
    file.write_text(json.dumps(record))
    files = report([run], tmp_path / "one.html")
    page = files[0].read_text()
    assert "<b>62.5</b>" in page
    assert "<b>-12.5</b>" in page
    found = json.loads(files[1].read_text())["runs"][0]["attacks"]["paraphrase"]
    assert [case["success"] for case in found["cases"]] == [True, False]
    assert "a &lt;kitty&gt; Sketch" in page
    for word in ("control_ASR", "vit says cat", "un-erased", "plain prompt", "attacked"):
        assert word in page
    assert page.count("data:image/jpeg") == 10  # two cases of three, and both as before and after
    assert all('alt="' in tag for tag in re.findall(r"<img [^>]*>", page))


def test_a_rate_that_the_budget_cut_is_marked_wherever_it_stands_beside_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / "whole", tmp_path / "cut"]
    for run in runs:
        erase("pocket", "uce", ["cat"], out=run)
        judged(run, "cat", wrong=0)
        attacked(run)
    file = runs[1] / "attacks" / "paraphrase.json"
    record = json.loads(file.read_text())
    record["per_concept"]["cat"]["is_cut_by_budget"] = True
    file.write_text(json.dumps(record))
    files = report(runs, tmp_path / "all.html")
    (ranking,) = re.findall(r"<h2>Attacked by .*?</section>", files[0].read_text(), re.DOTALL)
    assert ranking.count("cut by its budget") == 1
    assert "| cut (cut by its budget) |" in files[3].read_text()
    assert "| whole |" in files[3].read_text()
    cells = {Path(row["run"]).name: row["ASR paraphrase"] for row in compare(runs)}
    assert cells["cut"] == cells["whole"] + ", cut by its budget"
    for told, marks in ((record, 1), ({**record, "per_concept": {}, "is_cut_by_budget": True}, 1)):
        print_scores(told)
        assert capsys.readouterr().out.count("cut short by its budget") == marks
    print_scores({**record, "per_concept": {}})
    assert "cut short" not in capsys.readouterr().out


def test_unlearncanvas_labels_are_told_apart_and_only_those_met_are_shown(tmp_path: Path) -> None:
    run, gogh, winter = tmp_path / "run", THEMES.index("Van_Gogh"), THEMES.index("Winter")
    erase("pocket", "uce", ["cat"], out=run)
    asked = [(gogh, 4, winter, 4), (gogh, 5, winter, 5), (gogh, 6, gogh, 5), (winter, 4, winter, 4)]
    labels = [[188, 20 * theme + name, seen, style] for theme, name, style, seen in asked]
    rate = {"value": 0.5, "stderr": 0.1, "n": 4, "higher_is_better": True}
    record = {
        "protocol": "unlearncanvas-subset", "scores": {"UA": rate}, "labels": labels,
        "per_concept": {"Van_Gogh": {"UA": rate}}, "stamp": {},
    }  # fmt: skip
    (run / "scores").mkdir()
    (run / "scores" / "unlearncanvas-subset.json").write_text(json.dumps(record))
    for folder in ("unlearncanvas", "unlearncanvas-base"):
        file = run / "images" / folder / "Van_Gogh_Cats_seed188.jpg"
        file.parent.mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(file)
    told = json.loads(report([run], tmp_path / "one.html")[1].read_text())["runs"][0]
    scored = told["scores"]["unlearncanvas-subset"]
    assert scored["seen"] == {"Van_Gogh": [["Winter", 2], ["Van_Gogh", 1]]}
    assert scored["confusion"]["styles"] == {
        "labels": ["Van_Gogh", "Winter"], "counts": [[1, 2], [0, 1]],
        "mistakes": ["Van_Gogh as Winter 2×"],
    }  # fmt: skip
    assert scored["confusion"]["objects"]["mistakes"] == ["Fishes as Dogs 1×"]
    assert [row["protocol"] for row in told["pairs"]] == ["unlearncanvas"]


def test_requests_of_a_classifier_are_shown_with_their_curve(tmp_path: Path) -> None:
    run = tmp_path / "vit"
    data = Data(images=4, test_images=4)
    tasks = [["cat", "dog"], ["bird"]]
    forget("pocket-vit", "gradient-ascent", tasks, out=run, data=data, quick=True, watch_every=1)
    evaluate(run)
    files = report([run], tmp_path / "one.html")
    page = files[0].read_text()
    for word in ("cat, dog, bird, forgotten", "After each request", "Acc_o", "request 2", "MIA"):
        assert word in page
    assert page.count("<polyline") >= 5 + 3  # lines of both requests, and the legend's three
    record = json.loads(files[1].read_text())["runs"][0]["scores"]["continual"]
    assert record["scores"]["H"]["low"] is None  # no spread is known of a harmonic mean
    assert len(record["requests"]) == 2


def test_differences_name_the_field_inside_a_stamp() -> None:
    one = {"data": {"images": 64, "source": "canvas"}, "seeds": [188], "judge": "vit"}
    other = {"data": {"images": 16, "source": "canvas"}, "seeds": [188, 288]}
    assert differences(one, other) == [
        "data.images: 64 there, 16 here",
        "judge: vit there, None here",
        "seeds: [188] there, [188, 288] here",
    ]


def test_every_colour_of_text_can_be_read_on_every_ground() -> None:
    """WCAG's contrast of at least 4.5, by light and by dark."""
    style = (Path(page_module.__file__).parent / "report.css").read_text()
    themes = re.findall(r":root \{([^}]*--warn[^}]*)\}", style)
    assert len(themes) == 3  # light, dark, print
    for theme in themes:
        colours = dict(re.findall(r"--(\w+): (#\w+)", theme))
        for ink in ("ink", "soft", "mark", "warn"):
            for ground in ("ground", "pale"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)


def contrast(one: str, other: str) -> float:
    """(L1 + 0.05) / (L2 + 0.05) of two colours' relative luminances."""
    lights = []
    for colour in (one, other):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * letter for letter in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def test_files_that_no_report_wrote_are_never_replaced(runs: list[Path], tmp_path: Path) -> None:
    for name, text in (
        ("report.md", "# mine\n"), ("report.csv", "run,method\n1,2\n"),
        ("report.json", '{"runs": [], "groups": []}'), ("report.html", "<p>mine</p>"),
        ("report.json", "{"),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
        with pytest.raises(SettingError, match=rf"{name} is there and no report wrote it"):
            report([runs[1]], tmp_path / "report.html")
        assert [file.name for file in tmp_path.iterdir()] == [name]
        assert (tmp_path / name).read_text() == text
        (tmp_path / name).unlink()
    (tmp_path / "report.md").mkdir()
    with pytest.raises(SettingError, match=r"report\.md is there"):
        report([runs[1]], tmp_path / "report.html")
    (tmp_path / "report.md").rmdir()
    bare = tmp_path / "bare"
    shutil.copytree(runs[1], bare)
    shutil.rmtree(bare / "scores")
    for chosen in (bare, runs[0], runs[1], bare):  # a report's own are replaced
        files = report([chosen], tmp_path / "report.html")
    assert files[3].read_text() == "No scores yet.\n"


def test_four_files_are_written_or_none(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> str:
        return "\ud800"  # no UTF-8 has it

    monkeypatch.setattr("evaluation.reports.reporting._markdown", full)
    with pytest.raises(ErasureError, match=r"could not write .*report\.md"):
        report([runs[1]], tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_no_path_of_this_machine_is_in_a_report(runs: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "mine" / "cat"
    shutil.copytree(runs[1], run)
    attacked(run)
    config = json.loads((run / "config.json").read_text())
    config["command"] = f"{tmp_path}/bin/erasure erase uce --out {run} --images={tmp_path}/photos"
    (run / "config.json").write_text(json.dumps(config))
    for file in report([run, runs[0]], tmp_path / "report.html"):
        text = file.read_text()
        assert str(tmp_path) not in text, file
        assert str(runs[0].parent) not in text, file
        assert "mine/cat" in text
    assert "erasure erase uce --out cat --images=photos" in (tmp_path / "report.html").read_text()


TEXTS = ("command", "config", "versions", "sources", "device", "concepts", "data", "tasks")
NAMELESS = {
    "criterion": "x", "is_cut_by_budget": False, "scores": {}, "baseline": {},
    "cases": [
        {"case": {}, "pre": False, "found": None, "control": False, "control_tries": False,
         "success": False}
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        ("scores/pocket.json", {"labels": [[188, 0, 1]]}, "is not readable"),
        ("scores/pocket.json", {"labels": [[188, 0, 99, 0]]}, "holds labels that pocket"),
        ("scores/pocket.json", {"labels": "all"}, "is not readable"),
        ("scores/pocket.json", {"scores": {"UA": {"n": 3}}}, "is not readable"),
        ("scores/pocket.json", {"per_concept": {"unicorn": {}}}, "scores of 'unicorn'"),
        ("scores/pocket.json", {"requests": [{}]}, "is not readable"),
        ("attacks/paraphrase.json", {"per_concept": {"cat": {"criterion": "x"}}}, "not readable"),
        ("attacks/paraphrase.json", {"per_concept": []}, "is not readable"),
        ("attacks/paraphrase.json", {"per_concept": {"cat": NAMELESS}}, "not readable"),
        ("config.json", None, "is not readable"),
        *(("config.json", {key: 3}, "is not readable") for key in TEXTS),
        ("config.json", {"seconds": "long"}, "is not readable"),
        ("config.json", {"seconds": -1.0}, "is not readable"),
        ("config.json", {"seed": "x"}, "is not readable"),
    ],
)
def test_damaged_records_are_one_line(
    place: str, change: dict | None, message: str, runs: list[Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[1], run)
    attacked(run)
    record = json.loads((run / place).read_text())
    (run / place).write_text(json.dumps({**record, **change} if change else []))
    with pytest.raises(RunError, match=message):
        report([run], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_config_keeps_what_its_shape_does_not_name(runs: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[1], run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "mine": [3], "seconds": None}))
    report([run], tmp_path / "report.html")
    assert run_record(run)["mine"] == [3]


def test_a_broken_picture_and_a_run_that_goes_away_are_one_line(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[1], run)
    attacked(run)
    (run / "images" / "pocket" / "Photo_cat_seed188.png").write_bytes(b"\x89PNG")
    with pytest.raises(RunError, match=r"Photo_cat_seed188\.png is no picture"):
        report([run], tmp_path / "report.html")
    monkeypatch.setattr(
        "evaluation.reports.facts.moved", lambda *_: (shutil.rmtree(run), [], [])[1:]
    )
    with pytest.raises(RunError, match="cannot be read whole"):
        report([run], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_pictures_belong_to_the_concept_that_their_prompt_names() -> None:
    for file, concept, is_asked in (
        ("Artist_Sketch_Cats_seed188.jpg", "Sketch", False),
        ("Artist_Sketch_Cats_seed188.jpg", "Artist_Sketch", True),
        ("Sketch_cat_seed188.png", "Sketch", True),
        ("Pop_Art_cat_seed188.png", "Pop Art", True),
        ("Pop_Art_cat_seed188.png", "cat", True),
        ("church_prompt0-abcdef_seed188.png", "church", True),
        ("church_prompt0-abcdef_seed188.png", "a church", False),
    ):
        assert asks_for(file, concept) == is_asked, (file, concept)


def test_a_run_upon_another_tells_the_settings_of_both(runs: list[Path], tmp_path: Path) -> None:
    erase(runs[1], "uce", "tower", out=tmp_path / "more", stay=0.25)
    told = facts(tmp_path / "more")
    assert told["concepts"] == ["cat", "tower"]
    found = {entry["name"]: (entry["value"], entry["source"]) for entry in told["settings"]}
    assert found["uce (cat): stay"] == (0.5, "")
    assert found["uce (tower): stay"] == (0.25, "command line")
