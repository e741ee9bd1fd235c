"""What the log says of the classes on the way, and what older and other logs do not."""

import json
from pathlib import Path

import pytest
from networks import image_folder, timm_folder

from erasure.files.storage import read_lines
from erasure.forgetting import Data, forget
from evaluation.evaluating import evaluate
from evaluation.on_the_way import NAMES, looks, told_probe, worst_moments
from evaluation.reports.reporting import report

TASKS = [[0], [2]]
PROBE = {"every": 10, "images": [8, 8, 8, 8], "is_apart": True}


def log(run: Path, lines: list[dict]) -> Path:
    run.mkdir(exist_ok=True)
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def look(number: int, step: int, accuracies: list[float | None], **more: object) -> dict:
    """A line of the log by hand: classes 0 and 2 are forgotten in turn, 1 and 3 are kept."""
    a, _, c, _ = accuracies
    parts = {"Acc_f": c, "Acc_o": a} if number else {"Acc_f": a}
    if step == 0:
        gone = {"forgotten": TASKS[number], "earlier": [0] * number}
        more = {"probe": {**PROBE, **gone}, **more}
    return {"stage": f"request {number}", "step": step, "Acc_r": 0.5, **parts, "Acc": accuracies,
            **more}  # fmt: skip


HAND_MADE = [
    look(0, 0, [1.0, 1.0, 1.0, 1.0]),
    look(0, 10, [0.5, 0.25, 1.0, 1.0]),
    look(0, 20, [0.0, 1.0, 0.75, 0.5]),
    {"stage": "request 1", "step": 0, "erase": 2.0},  # a loss
    look(1, 0, [0.0, 1.0, 0.75, 0.5]),
    look(1, 10, [0.5, 1.0, 0.25, 0.75]),
    look(1, 20, [0.25, 0.5, 0.25, 1.0]),
]


def test_the_worst_moments_by_hand(tmp_path: Path) -> None:
    seen = looks(log(tmp_path / "run", HAND_MADE))
    (first, last), least, why = worst_moments(seen, TASKS, 4)
    # classes 1, 2 and 3 are kept in the first request: least 0.25, 0.75, 0.5
    assert first["min_Acc"].value == pytest.approx(1.5 / 3)
    assert first["WC"].value == pytest.approx((1 + 1.5) / 4)
    assert first["WF10"].value == pytest.approx((0.75 + 0.25 + 0.5) / 3)
    assert "max_Acc_o" not in first
    assert {name: last[name].value for name in NAMES} == {
        "min_Acc": pytest.approx((0.5 + 0.5) / 2), "WC": pytest.approx((0.75 + 1.0) / 3),
        "WF10": pytest.approx((0.5 + 0) / 2), "max_Acc_o": 0.5,
    }  # fmt: skip
    assert last["max_Acc_o"].n == 8
    assert (least, why) == ({1: 0.5, 3: 0.5}, {})
    told = told_probe(seen)
    assert told is not None
    assert "none of them a test image" in told["note"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _: [], "nothing was looked at"),
        (lambda lines: [{k: v for k, v in line.items() if k not in ("Acc", "probe")}
                        for line in lines], "an older version wrote it"),
        (lambda lines: [line for line in lines if "probe" not in line], "an older version"),
        (lambda lines: [*lines[:5], {**lines[5], "Acc": [1.0, 1.0]}], "of other requests"),
        (lambda lines: [{**line, "stage": "request 1"} for line in lines[:3]], "other requests"),
    ],
)  # fmt: skip
def test_logs_that_do_not_say(change, reason: str, tmp_path: Path) -> None:
    seen = looks(log(tmp_path / "run", change(HAND_MADE)))
    found, least, why = worst_moments(seen, TASKS, 4)
    assert found[-1] == least == {}
    assert set(why) == set(NAMES)
    assert reason in why["min_Acc"]


def test_what_one_request_and_single_images_leave_out(tmp_path: Path) -> None:
    seen = looks(log(tmp_path / "run", HAND_MADE[:3]))
    (found,), _, why = worst_moments(seen, TASKS[:1], 4)
    assert set(found) == {"min_Acc", "WC", "WF10"}
    assert why == {"max_Acc_o": "no request came before"}
    lines = [{**line, "Acc_t": 1.0} for line in HAND_MADE[:3]]
    lines[0] = {**lines[0], "probe": {**PROBE, "forgotten": [], "earlier": []}}
    (found,), least, why = worst_moments(looks(log(tmp_path / "other", lines)), [[]], 4)
    assert set(found) == {"min_Acc", "WF10"}  # of all classes: each is kept
    assert set(least) == {0, 1, 2, 3}
    assert "single images" in why["WC"]


def test_a_class_without_images_on_the_probe(tmp_path: Path) -> None:
    lines = [{**line, "Acc": [*line["Acc"][:3], None]} for line in HAND_MADE[:3]]
    (found,), least, _ = worst_moments(looks(log(tmp_path / "run", lines)), TASKS[:1], 4)
    assert set(least) == {1, 2}
    assert found["min_Acc"].value == pytest.approx((0.25 + 0.75) / 2)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    timm_folder(tmp_path / "model")
    image_folder(tmp_path / "images", per_class=20)  # of which 16 are trained on and 4 held out
    return tmp_path


def test_the_log_of_a_run_has_every_class(place: Path) -> None:
    """From a probe apart where there are images, also of a method without steps."""
    data = Data(source=str(place / "images"), images=8, test_images=2)
    model, tasks = str(place / "model"), [["red"], ["blue"]]
    forget(model, "random-label", tasks, out=place / "run", data=data, watch_every=2, epochs=3,
           batch_size=8, learning_rate=0.05)  # fmt: skip
    record = evaluate(place / "run")
    lines = [line for line in read_lines(place / "run" / "log.jsonl") if "Acc" in line]
    assert [line["step"] for line in lines] == [0, 2, 4, 6, 8, 9, 0, 2, 4, 6]
    for line in lines:
        red, green, blue, grey = line["Acc"]
        kept = (green + blue + grey) / 3 if line["stage"] == "request 0" else (green + grey) / 2
        assert line["Acc_r"] == pytest.approx(kept, abs=1e-4)
        assert line["Acc_f"] == (red if line["stage"] == "request 0" else blue)
    assert lines[6]["probe"] == {
        "every": 2, "images": [2] * 4, "is_apart": True, "forgotten": [2], "earlier": [0]
    }  # fmt: skip
    last = lines[6:]
    lowest = [min(line["Acc"][label] for line in last) for label in (1, 3)]
    assert record["scores"]["min_Acc"]["value"] == pytest.approx(sum(lowest) / 2)
    assert record["scores"]["max_Acc_o"]["value"] == max(line["Acc_o"] for line in last)
    assert record["worst"]["classes"] == dict(zip(("green", "grey"), lowest, strict=True))
    assert record["after"][0].keys() >= {"min_Acc", "WC", "WF10"}
    assert not {"Acc", "probe"} & record["curve"][0].keys()
    files = report([place / "run"], place / "one.html")
    assert "none of them a test image, every 2 steps. Lowest on the way:" in files[0].read_text()
    forget(model, "ssd", [["red"]], out=place / "ssd", data=data, selection=1.0, batch_size=4)
    steps = [line["step"] for line in read_lines(place / "ssd" / "log.jsonl") if "Acc" in line]
    assert steps == [0, 1]
    assert "min_Acc" in evaluate(place / "ssd", protocol="continual")["scores"]
    assert "min_Acc" not in evaluate(place / "ssd")["scores"]


def test_without_more_images_the_probe_is_the_tests(place: Path) -> None:
    data = Data(source=str(place / "images"), images=8, test_images=0)
    out = place / "all"
    forget(str(place / "model"), "ssd", [["red"]], out=out, data=data, selection=1.0, batch_size=4)
    told = told_probe(looks(out))
    assert told is not None
    assert told["note"] == (
        "on a probe of at most 4 held-out images per class, the first of the test images, "
        "every 10 steps"
    )
