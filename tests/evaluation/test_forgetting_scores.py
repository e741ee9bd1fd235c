"""Class forgetting scores: the figures by hand, and the two protocols on a miniature."""

import json
from pathlib import Path

import pytest
import torch
from networks import image_folder, timm_folder
from safetensors.torch import load_file, save_file

from erasure.errors import ErasureError, RunError, SettingError
from erasure.forgetting import Data, forget
from evaluation.evaluating import evaluate
from evaluation.metrics.forgetting import accuracy, distance, h_mean, membership
from evaluation.reports.facts import _with_intervals
from evaluation.score import mean


def test_figures_by_hand() -> None:
    said = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    labels = torch.tensor([0, 0, 1, 1])
    assert accuracy(said, labels, [0]).value == 0.5
    assert accuracy(said, labels, [0, 1]).value == 0.5
    assert accuracy(said, labels, [1]).n == 2
    assert h_mean(1.0, 0.5) == pytest.approx(2 / 3)
    assert h_mean(0.0, 0.0) == 0.0
    assert distance(said, said.flip(1)).value == pytest.approx((0.8 + 0.6 + 0.2 + 0.4) / 4)
    members, others = torch.tensor([0.9, 0.8, 0.95]), torch.tensor([0.5, 0.6, 0.85])
    assert membership(members, others, torch.tensor([0.1, 0.79, 0.99, 0.8])).value == 0.5


def test_no_interval_leaves_its_range() -> None:
    one = torch.tensor([1.0, 0.0])
    moved = distance(torch.stack([one, one, one, one]), torch.stack([one, one, one, one.flip(0)]))
    assert moved.value == 0.25
    assert (moved.low, moved.high) == (0.0, pytest.approx(0.25 + 1.96 * 0.25))
    cosines = mean(torch.tensor([1.0, 1.0, 0.7]), least=-1, most=1)
    assert cosines.high == 1.0
    told = {"value": 0.01, "stderr": 0.01, "n": 4}
    assert _with_intervals({"perceptual": told})["perceptual"]["low"] == 0.0
    assert _with_intervals({"KID": told})["KID"]["low"] < 0.0
    with pytest.raises(RunError, match="FID must not be below 0"):
        _with_intervals({"FID": {"value": -1.0}})


def test_membership_is_the_threshold_of_every_candidate() -> None:
    """Against the plain search over all of them, with ties; sorting makes it fast."""
    generator = torch.Generator().manual_seed(0)
    for count in (1, 7, 40):
        members, others, asked = (
            (torch.rand(n, generator=generator) * 20).round() / 20
            for n in (count, 2 * count, count + 3)
        )
        candidates = torch.cat([members, others]).unique()
        right = torch.stack(
            [(members >= c).float().mean() + (others < c).float().mean() for c in candidates]
        )
        want = (asked < candidates[right.argmax()]).float().mean()
        assert membership(members, others, asked).value == float(want)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A finished run of two requests."""
    timm_folder(tmp_path / "model")
    data = Data(source=str(image_folder(tmp_path / "images")), images=8, test_images=2)
    forget(
        str(tmp_path / "model"), "random-label", [["red"], ["blue"]], out=tmp_path / "two",
        data=data, watch_every=1, epochs=1, batch_size=8,
    )  # fmt: skip
    return tmp_path / "two"


@pytest.mark.parametrize(
    "line",
    [
        {"stage": "request 1", "step": "two", "Acc_r": 0.5},
        {"stage": "request 1", "step": 2, "Acc_r": None},
        {"stage": "request 1", "Acc_r": 0.5},
        {"stage": "request 1", "step": 2, "Acc_r": 0.5, "Acc_f": []},
    ],
)
def test_a_bad_line_leaves_no_scores(line: dict, two: Path) -> None:
    with (two / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
    with pytest.raises(RunError, match=r"log\.jsonl's line is not readable"):
        evaluate(two)
    assert not (two / "scores").exists()


def test_other_stages_are_no_part_of_the_curve(two: Path) -> None:
    before = evaluate(two)["curve"]
    with (two / "log.jsonl").open("a") as log:
        for stage in ("request 0 vae", "request 0 groups", "mask", "request x", "request"):
            log.write(json.dumps({"stage": stage, "step": 1, "Acc_r": 0.0}) + "\n")
        log.write("null\n\xff\n{")
    assert evaluate(two)["curve"] == before


@pytest.mark.parametrize("text", [None, "", "[", "{}", '[{"classes": "red"}]', '[{"Acc_f": 1}]'])
def test_a_record_of_requests_that_is_not_one(text: str | None, two: Path) -> None:
    file = two / "requests.json"
    file.unlink() if text is None else file.write_text(text)
    for protocol in ("class-forgetting", "continual"):
        with pytest.raises(RunError, match=r"requests\.json"):
            evaluate(two, protocol=protocol)
    assert not (two / "scores").exists()


@pytest.mark.parametrize(
    "changes", [{"data": None}, {"tasks": [1]}, {"data": {"source": "x"}}, {"tasks": [["violet"]]}]
)
def test_a_config_that_is_none(changes: dict, two: Path) -> None:
    record = json.loads((two / "config.json").read_text())
    (two / "config.json").write_text(json.dumps({**record, **changes}))
    with pytest.raises(ErasureError):
        evaluate(two)


def test_other_images_than_the_run_was_made_with_are_refused(two: Path, tmp_path: Path) -> None:
    images = tmp_path / "images" / "red"
    first = sorted(images.iterdir())[0]
    kept = first.read_bytes()
    for other in (kept + b"more", kept[:-1] + b"\0"):  # longer, or as long
        first.write_bytes(other)
        with pytest.raises(RunError, match=r"images does not hold the images that .*two "):
            evaluate(two)
    assert not (two / "scores").exists()
    first.write_bytes(kept)
    evaluate(two)


def test_requests_that_were_swapped_by_hand_are_refused(two: Path) -> None:
    for name, key in (("requests.json", "classes"), ("config.json", "tasks")):
        file = two / name
        kept = json.loads(file.read_text())
        if key == "tasks":
            swapped: object = {**kept, "tasks": kept["tasks"][::-1]}
        else:
            swapped = [{**a, key: b[key]} for a, b in zip(kept, kept[::-1], strict=True)]
        file.write_text(json.dumps(swapped))
        with pytest.raises(RunError, match="put back what was changed by hand"):
            evaluate(two)
        assert not (two / "scores").exists()
        file.write_text(json.dumps(kept))
    evaluate(two)


def test_scores_of_other_classes_stand_beside_the_runs_own(two: Path) -> None:
    own = evaluate(two)
    assert evaluate(two, concepts=["blue"])["scores"] == own["scores"]  # the last request's
    others = evaluate(two, concepts=["grey"])
    held = {file.stem: json.loads(file.read_text()) for file in (two / "scores").iterdir()}
    assert held == {"continual": own, "continual-of_grey": others}


def test_classes_asked_for_by_part_and_number(two: Path) -> None:
    scores = evaluate(two, concepts=["Red,#1"])["per_concept"]
    assert set(scores) == {"red", "green", "blue"}
    assert not any(part["Acc"]["higher_is_better"] for part in scores.values())  # all forgotten
    with pytest.raises(SettingError, match="no class 'violet'"):
        evaluate(two, concepts=["violet"])


def test_a_reference_of_another_model(two: Path, tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "other")
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t * 2 for n, t in tensors.items()}, folder / "model.safetensors")
    data = Data(source=str(tmp_path / "images"), images=8, test_images=2)
    forget(str(folder), "ssd", [["red"]], out=tmp_path / "ref", data=data, selection=1.0)
    with pytest.raises(SettingError, match="reference must be of"):
        evaluate(two, reference=tmp_path / "ref")


def test_both_protocols(tmp_path: Path) -> None:
    timm_folder(tmp_path / "model")
    data = Data(source=str(image_folder(tmp_path / "images")), images=8, test_images=2)
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 0.05}
    for name, tasks in (("one", [["red"]]), ("two", [["red"], ["blue"]])):
        forget(
            str(tmp_path / "model"), "random-label", tasks, out=tmp_path / name, data=data,
            watch_every=2, **settings,
        )  # fmt: skip
    one = evaluate(tmp_path / "one", reference=tmp_path / "one")
    assert one["protocol"] == "class-forgetting"
    assert one["scores"]["distance"]["value"] == 0.0 < one["baseline"]["distance"]["value"]
    assert {"Acc_f", "Acc_r", "H", "MIA"} <= one["scores"].keys()
    two = evaluate(tmp_path / "two")
    assert two["protocol"] == "continual"
    assert two["scores"]["Acc_o"]["n"] == 2
    last = two["after"][-1]
    assert two["scores"]["Acc_r"]["value"] == pytest.approx(last["Acc_r"])
    assert two["scores"]["Acc_f"]["value"] == pytest.approx(last["Acc_f"])
    assert {point["request"] for point in two["curve"]} == {0, 1}
    assert two["worst"]["Acc_r"] == min(point["Acc_r"] for point in two["curve"])
    assert json.loads((tmp_path / "two" / "scores" / "continual.json").read_text()) == two
    with pytest.raises(SettingError, match="the protocol pocket is for runs of `erasure erase`"):
        evaluate(tmp_path / "one", protocol="pocket")
