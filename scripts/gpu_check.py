"""All that wants a CUDA card, in one command: the tests marked `cuda`, then speed at real shapes.

    python scripts/gpu_check.py                                # eight minutes, one card, no network
    python scripts/gpu_check.py --stage bench --minutes 12 --out runs/gpu-bench
    python scripts/gpu_check.py --stage bench --row flux/esd,flux/gs-lora   # FLUX alone; 80 GB
    python scripts/gpu_check.py --stage samples --data hf:uoft-cs/cifar10   # sample_table.py, whole
    python scripts/gpu_check.py --device cpu --stage bench --row pocket/esd       # to try it

Each stage may take its share of --minutes (what one leaves goes to those after it); what there is
no time for is skipped, and said. OUT/gpu.json and the table OUT/gpu.md are written after every test
and every row, so that a kill loses nothing; OUT/STAGE.txt has what a stage's own process says, and
OUT/samples.md the table of the stage `samples`, which needs --data (on the CPU: in its small form;
stopped, it is kept in OUT/samples for sample_table.py to go on with). Rows are those of
bench.py with random weights, shortest first, one turn each: the toolkit in bfloat16 autocast, the
naive way in float32. Exit code: 1 if a test failed, 2 for bad options, otherwise 0.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bench
import bench_models
import bench_rows
import torch
from bench_rows import Row
from gpu_table import row_cells, table

from erasure.errors import ErasureError, SettingError
from erasure.files.storage import atomic, write_json

ROOT = Path(__file__).parents[1]
SHARES = {"classifiers": 0.1, "hardware": 0.2, "methods": 0.3, "bench": 0.4, "samples": 1.0}
BY_DEFAULT = [stage for stage in SHARES if stage != "samples"]
# guesses at what a step costs, for the order
FAMILIES = {"sd14": 1.0, "sd21": 1.5, "sdxl": 6.0, "flux": 20.0}
METHODS = {
    "esd": 1.0, "bounded": 1.1, "uce": 1.2, "gs-lora": 1.4, "salun": 1.6, "doco": 2.0, "sfd": 2.5,
    "adapt-unlearn": 2.5, "uce-100": 4.0, "advunlearn": 8.0, "generate": 20.0,
}  # fmt: skip
REFUSED = "sdxl/sfd"
LEAST_MINUTES = 0.01
SECONDS_TO_END = 20  # of a process after its last line
NO_TESTS = 5  # pytest's exit code; --tests may choose none of a stage, but not none at all


class Record:
    """What was found so far, on disk after every addition."""

    def __init__(self, out: Path, device: str) -> None:
        is_card = device == "cuda"
        self.out = out
        self.values: dict[str, Any] = {
            "command": shlex.join(["python", *sys.argv]),
            "device": torch.cuda.get_device_name() if is_card else "the CPU",
            "memory": torch.cuda.get_device_properties(0).total_memory if is_card else None,
            "cuda": torch.version.cuda if is_card else None,
            "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
            "threads": torch.get_num_threads(),
            "matrix_rate": None,
            "notes": [],
            "tests": [],
            "rows": [],
        }
        self.save()

    def save(self) -> None:
        write_json(self.out / "gpu.json", self.values)
        with atomic(self.out / "gpu.md") as temporary:
            temporary.write_text(table(self.values))

    def test(self, stage: str, entry: dict[str, Any]) -> None:
        self.values["tests"].append({"stage": stage, **entry})
        self.save()
        if entry["outcome"] == "failed":
            print(f"FAILED {entry['test']}: {entry['reason']}", file=sys.stderr)

    def row(self, entry: dict[str, Any]) -> None:
        self.values["rows"].append(entry)
        self.save()
        print(" ".join(row_cells(entry, self.values["matrix_rate"])), file=sys.stderr)

    def note(self, text: str) -> None:
        self.values["notes"].append(text)
        self.save()
        print(text, file=sys.stderr)


def run_tests(record: Record, stage: str, asked: argparse.Namespace, until: float) -> None:
    """A stage's tests in a process of their own, which is killed at `until` (of time.time())."""
    read, write = os.pipe()
    command = [
        sys.executable, "-m", "pytest", f"tests/cuda/test_cuda_{stage}.py", "-m", "cuda",
        "--cuda-device", asked.device, "-p", "gpu_lines", "-p", "no:cacheprovider",
    ]  # fmt: skip
    command += ["-k", asked.tests] if asked.tests else []
    told = {"ERASURE_LINES": str(write), "ERASURE_UNTIL": str(until)}  # to gpu_lines.py
    with open(record.out / f"{stage}.txt", "w") as said:
        child = subprocess.Popen(
            command, cwd=ROOT, env=environment(asked.device) | told, pass_fds=[write], stdout=said,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        os.close(write)
        timer = threading.Timer(until - time.time(), stop, [child])
        timer.start()
        try:
            left = take_lines(record, stage, read)
            with suppress(subprocess.TimeoutExpired):
                child.wait(SECONDS_TO_END)
        finally:
            timer.cancel()
            stop(child)
    if child.returncode not in (0, 1, *([NO_TESTS] if asked.tests else [])):
        add_unheard(record, stage, left, None if time.time() >= until else child.returncode)


def add_unheard(record: Record, stage: str, left: list[str], code: int | None) -> None:
    """Record the tests that a process left when it crashed with a code, or was stopped (None)."""
    is_late = code is None
    why = "stopped, for the stage's time was over" if is_late else f"pytest ended with {code}"
    for number, test in enumerate(left if left or is_late else ["the end"]):
        record.test(
            stage,
            {
                "test": test,
                "outcome": "skipped" if number or is_late else "failed",
                "seconds": 0.0,
                "reason": "no time left" if number and is_late else why,
                "figures": {},
            },
        )


def take_lines(record: Record, stage: str, read: int) -> list[str]:
    """Record what comes down a pipe until it is closed; the tests that were not heard of."""
    left = ["collection"]
    with open(read) as lines:
        for line in lines:
            values = json.loads(line)
            if "planned" in values:
                left = values["planned"]
                continue
            left = [test for test in left if test != values["test"]]
            record.test(stage, values)
    return left


def run_samples(record: Record, asked: argparse.Namespace, until: float) -> None:
    """sample_table.py in a process of its own, which is killed at `until` (of time.time())."""
    command = [
        sys.executable, str(ROOT / "scripts" / "sample_table.py"), "--data", asked.data,
        "--out", str(record.out / "samples"), "--markdown", str(record.out / "samples.md"),
        *(["--small"] if asked.device == "cpu" else []),
    ]  # fmt: skip
    start = time.monotonic()
    with open(record.out / "samples.txt", "w") as said:
        child = subprocess.Popen(
            command, env=environment(asked.device), stdout=said, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            code = child.wait(max(until - time.time(), 0))
            outcome, reason = ("failed", f"it ended with {code}") if code else ("passed", "")
        except subprocess.TimeoutExpired:
            outcome, reason = "skipped", f"no time left; {shlex.join(command[1:])} goes on"
        finally:
            stop(child)
    seconds = round(time.monotonic() - start, 1)
    entry = {"outcome": outcome, "seconds": seconds, "reason": reason, "figures": {}}
    record.test("samples", {"test": "sample_table.py", **entry})


def environment(device: str) -> dict[str, str]:
    """For a stage's own process: where everything is, and which card."""
    paths = [ROOT, ROOT / "datasets", ROOT / "scripts"]
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "0") if device == "cuda" else ""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")]),
        "CUDA_VISIBLE_DEVICES": seen, "HF_HUB_OFFLINE": "1",
    }  # fmt: skip


def stop(child: subprocess.Popen[bytes]) -> None:
    """Kill a child, unless it has ended, with all that it started."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def run_rows(record: Record, asked: argparse.Namespace, until: float) -> None:
    """Each row, unless less time is left than the one before it took."""
    end_at = time.monotonic() + until - time.time()
    rate = bench.in_child(bench_rows.matrix_rate, asked.device, until=end_at)
    record.values["matrix_rate"] = rate
    last = 0.0
    for place in asked.rows:
        family, method = place.split("/")
        entry: dict[str, Any] = {"family": family, "method": method}
        start = time.monotonic()
        if start + last > end_at:
            record.row({**entry, "error": "skipped: no time left"})
            continue
        row = Row(family, method, asked.device, None, 1, "wall")
        try:
            record.row(bench.compare(row, 1, end_at))
        except Exception as error:  # a card's errors are of many kinds; other rows may still run
            text = next(iter(str(error).splitlines()), "")
            record.row({**entry, "error": f"{type(error).__name__}: {text}"})
        last = time.monotonic() - start


def rows_of(device: str) -> list[str]:
    """What can be measured, shortest first."""
    families = FAMILIES if device == "cuda" else {"pocket": 1.0}
    cost = {
        f"{f}/{m}": a * b
        for f, a in families.items()
        for m, b in METHODS.items()
        if bench_models.measured(f, m)
    }
    cost.pop(REFUSED, None)
    return sorted(cost, key=lambda row: cost[row])


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; SettingError for what is not valid."""
    parser = bench.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything [8]")
    parser.add_argument("--stage", default=",".join(BY_DEFAULT), help="stages, with commas")
    parser.add_argument("--tests", default="", help="as pytest's -k [all]")
    parser.add_argument("--data", default="", help="labelled images, for the stage samples")
    parser.add_argument("--row", help="FAMILY/METHOD, with commas, in their order [all]")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try it [cuda]")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="new folder [runs/gpu]")
    asked = parser.parse_args(arguments)
    if not LEAST_MINUTES <= asked.minutes <= 24 * 60:
        raise SettingError(
            f"minutes must be from {LEAST_MINUTES} to {24 * 60}; got {asked.minutes}."
        )
    (asked.device,) = bench.words(asked.device, ("cuda", "cpu"), "device")
    if asked.device == "cuda" and not torch.cuda.is_available():
        raise SettingError("device is cuda, but torch sees no GPU; use --device cpu.")
    asked.stages = bench.words(asked.stage, tuple(SHARES), "stage")
    if ("samples" in asked.stages) != bool(asked.data):
        raise SettingError("data and the stage samples go together; give both or neither.")
    known = rows_of(asked.device)
    asked.rows = known if asked.row is None else bench.words(asked.row, known, "row")
    if asked.out.exists() and (not asked.out.is_dir() or any(asked.out.iterdir())):
        raise SettingError(f"out must be a new folder; {asked.out} exists.")
    return asked


def main(arguments: Sequence[str] | None = None) -> int:
    """1 if a test failed, otherwise 0."""
    asked = parsed(arguments)
    record = Record(asked.out, asked.device)
    over = time.time() + 60 * asked.minutes
    for number, stage in enumerate(asked.stages):
        now = time.time()
        waiting = sum(SHARES[other] for other in asked.stages[number:])
        until = now + max(over - now, 0) * SHARES[stage] / waiting
        try:
            if stage == "bench":
                run_rows(record, asked, until)
            elif stage == "samples":
                run_samples(record, asked, until)
            else:
                run_tests(record, stage, asked, until)
        except ErasureError as error:
            record.note(f"{stage}: {error}")
    print(table(record.values))
    tests = record.values["tests"]
    if asked.tests and not tests and {*asked.stages} - {"bench", "samples"}:
        raise SettingError(f"tests must choose at least one test; {asked.tests!r} chose none.")
    return int(any(test["outcome"] == "failed" for test in tests))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ErasureError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        sys.exit(2)
