"""gpu_check.py on the CPU: one test, one miniature row, time running out, and what it refuses."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import bench
import bench_models
import bench_rows
import gpu_check

from erasure.errors import ErasureError, SettingError
from erasure.models.diffusion.load import load_model

ONE = "test_class_steps and random-label and no"


def check(out: Path, *more: str) -> tuple[int, dict, str]:
    """The exit code, gpu.json and gpu.md."""
    code = gpu_check.main(["--device", "cpu", "--out", str(out), *more])
    return code, json.loads((out / "gpu.json").read_text()), (out / "gpu.md").read_text()


@pytest.fixture
def at_hand(sd1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are measured in this process, which has had its peak of memory, on the miniature."""

    def here(function: Callable[..., object], *given: object, until: float) -> object:  # noqa: ARG001
        found = function(*given)
        return replace(found, peak=10**9) if isinstance(found, bench.Measured) else found

    monkeypatch.setattr(bench, "in_child", here)
    monkeypatch.setattr(bench_models, "build", lambda *_: load_model(str(sd1)))


@pytest.mark.slow
@pytest.mark.usefixtures("at_hand")
def test_a_test_and_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = ["--stage", "classifiers,bench", "--tests", ONE, "--row", "pocket/esd"]
    code, record, text = check(tmp_path / "out", *stages)
    assert code == 0
    (test,), (row,) = record["tests"], record["rows"]
    assert (test["stage"], test["outcome"]) == ("classifiers", "passed")
    assert test["test"].endswith("test_class_steps[random-label-no]")
    assert "error" not in row, row["error"]
    assert row["toolkit"]["seconds"] > 0
    assert row["faster_than_naive"] > 0
    assert record["matrix_rate"] > 0
    assert "on the CPU; torch " in text
    assert "| classifiers | 1 | 0 | 0 |" in text
    assert "| pocket esd | " in text
    assert text in capsys.readouterr().out


def test_the_table_of_samples_is_stopped_in_time_or_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["--stage", "samples", "--data", "images"]
    file = tmp_path / "python"
    file.write_text("#!/bin/sh\nexec sleep 60\n")
    file.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(file))
    code, record, text = check(tmp_path / "late", *asked, "--minutes", "0.02")
    assert (code, record["tests"][0]["outcome"]) == (0, "skipped")
    assert "sample_table.py --data images --out " in record["tests"][0]["reason"]
    file.write_text("#!/bin/sh\necho no such images\nexit 2\n")
    code, record, text = check(tmp_path / "failed", *asked)
    assert code == 1
    assert "it ended with 2" in text
    assert (tmp_path / "failed" / "samples.txt").read_text() == "no such images\n"


def test_a_failure_and_a_crash_are_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what came before a crash is kept."""
    program = """
import json, os
for line in (
    {"planned": ["a", "b", "c", "d"]},
    {"test": "a", "outcome": "passed", "seconds": 1.0, "reason": "", "figures": {"apart": 0.01}},
    {"test": "b", "outcome": "failed", "seconds": 1.0, "reason": "it is so", "figures": {}},
):
    os.write(int(os.environ["ERASURE_LINES"]), (json.dumps(line) + "\\n").encode())
os.abort()
"""
    file = tmp_path / "python"
    file.write_text(f"#!/bin/sh\nexec {sys.executable} - <<'END'\n{program}END\n")
    file.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(file))
    code, record, text = check(tmp_path / "out", "--stage", "hardware")
    assert code == 1
    assert [test["outcome"] for test in record["tests"]] == [
        "passed", "failed", "failed", "skipped",
    ]  # fmt: skip
    assert "| hardware | 1 | 2 | 1 | 2 | 0.01 |" in text
    assert "failed: b (it is so)" in text
    assert "failed: c (pytest ended with -6)" in text


def test_no_test_at_all_is_no_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where a stage has none, nor where none is chosen."""
    file = tmp_path / "python"
    file.write_text("#!/bin/sh\nexit 5\n")  # as pytest does that has run none
    file.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(file))
    code, record, _ = check(tmp_path / "out", "--stage", "hardware")
    assert code == 1
    assert [test["reason"] for test in record["tests"]] == ["pytest ended with 5"]
    with pytest.raises(SettingError, match="tests must choose at least one test; 'typo' chose"):
        check(tmp_path / "none", "--stage", "hardware,methods", "--tests", "typo")


@pytest.mark.usefixtures("at_hand")
def test_what_there_is_no_time_for_is_skipped_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: object) -> dict:
        time.sleep(2)  # stands for a row
        return {"family": "pocket", "method": "esd", "error": "toolkit: out of memory."}

    monkeypatch.setattr(bench, "compare", slow)
    monkeypatch.setattr(bench_rows, "matrix_rate", lambda _: 1e12)
    stages = ["--stage", "methods,bench", "--minutes", "0.05", "--row", "pocket/esd,pocket/uce"]
    code, record, text = check(tmp_path / "out", *stages)
    assert code == 0
    assert [test["reason"] for test in record["tests"]] == [
        "stopped, for the stage's time was over"
    ]
    assert [row["error"] for row in record["rows"]] == [
        "toolkit: out of memory.", "skipped: no time left",
    ]  # fmt: skip
    assert "skipped: collection (stopped, for the stage's time was over)" in text
    assert "| pocket uce |  |  |  |  |  |  |  | skipped: no time left |" in text


@pytest.mark.slow
def test_a_measurement_that_takes_too_long_is_stopped() -> None:
    start = time.monotonic()
    with pytest.raises(ErasureError, match="stopped, for its time was over"):
        bench.in_child(time.sleep, 600, until=start + 1)
    assert time.monotonic() - start < 120


def test_rows_come_shortest_first() -> None:
    rows = gpu_check.rows_of("cuda")
    assert rows[0] == "sd14/esd"
    assert rows[-1] == "sdxl/generate"
    assert len(rows) == 3 * len(bench_rows.ROWS) - 1 + len(bench_models.LARGE["flux"])
    assert set(gpu_check.METHODS) == set(bench_rows.ROWS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "device is cuda, but torch sees no GPU; use --device cpu."),
        (["--device", "tpu"], "device must be among cuda, cpu; got 'tpu'."),
        (["--minutes", "0"], "minutes must be from 0.01 to 1440; got 0.0."),
        (["--minutes", "nan"], "minutes must be from 0.01 to 1440; got nan."),
        (["--minutes", "x"], "argument --minutes: invalid float value: 'x'."),
        (
            ["--device", "cpu", "--stage", "tests"],
            "stage must be among classifiers, .*, bench, samples; got 'tests'.",
        ),
        (["--device", "cpu", "--stage", "samples"], "data and the stage samples go together;"),
        (["--device", "cpu", "--row", "sd14/esd"], "row must be among pocket/esd, .*'sd14/esd'."),
        (["--device", "cpu", "--out", __file__], "out must be a new folder; .* exists."),
        (["--device", "cpu", "--out", "/"], "out must be a new folder; / exists."),
    ],
)
def test_bad_options_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        gpu_check.parsed(arguments)
