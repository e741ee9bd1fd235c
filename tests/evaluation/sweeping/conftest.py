"""A sweep of stubs: a cell's process takes a moment and computes nothing."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluation.sweeping import sweep as sweeping

# stands for evaluation.sweeping.chain: it does what the folder's `fails` and `waits` say
STUB = """
import json, os, pathlib, sys, time
out, name = pathlib.Path(sys.argv[1]), sys.argv[2]
file = out / f"{name}.json"
cell = json.loads(file.read_text())
begun = out.parent / "begun"
begun.mkdir(exist_ok=True)
(begun / f"{os.getpid()}").write_text(json.dumps(
    [name, os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES", ""), time.time()]
))
bad = out.parent / "fails"
if bad.is_file() and name in bad.read_text():
    print("it was asked to fail", flush=True)
    sys.exit(3)
while (out.parent / "waits").is_file():
    time.sleep(0.02)
time.sleep(0.2)
for step, left in zip(cell["steps"], ("edit.json", "scores/pocket.json", "attacks/noise.json")):
    place = out / name / left
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps({"protocol": "p", "attack": "noise", "scores": {
        "UA": {"value": 0.5}, "ASR": {"value": 0.25}}}))
    step.update(state="done", seconds=0.2, line="well", file=left)
file.write_text(json.dumps(cell))
"""


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], list[str]]:
    """Cells' processes are stubs; gives the command of one."""

    def command(out: Path, name: str) -> list[str]:
        return [sys.executable, "-I", "-S", "-c", STUB, str(out), name]

    monkeypatch.setattr(sweeping, "command", command)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(sweeping, "cards", list)
    return command
