"""One cell, in a process of its own: `python -m evaluation.sweeping.chain OUT NAME`.

Its commands run one after another as `python -m erasure` would run each, in one process: the
libraries take longer to import than many an erasure takes. What is done already is passed over, and
each command's end is written to the cell's record at once, so that a kill loses none.
"""

import os
import runpy
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from erasure.errors import ErasureError
from erasure.files.locking import is_held
from erasure.files.records import CellShape, StepShape, read_record
from erasure.files.storage import write_json
from evaluation.sweeping.cells import is_finished, record_file, what

INTERRUPTED = 130
PATIENCE = 60.0  # seconds for a killed process of the same run to be gone
LONGEST = 400  # letters of a last line


def run_cell(out: Path, name: str, run: Callable[[Sequence[str]], int]) -> int:
    """Run the steps that are left; the first exit code that is not 0, or 0.

    Evaluation and attacks are tried even if one of them fails, but not without an erasure. What an
    erasure that ran again is judged by runs again, too.
    """
    file, log = record_file(out, name), out / f"{name}.log"
    cell = read_record(file, CellShape)
    is_new, worst = False, 0
    for step in cell["steps"]:
        if not is_new and is_finished(out, cell, step):
            continue
        _begin(step)
        write_json(file, cell)
        wait_for(out / name)
        code = _timed(
            step, out / name, log, run, [_place(word, out, name) for word in step["command"]]
        )
        write_json(file, cell)
        is_erasing = what(step) in ("erase", "forget")
        is_new, worst = is_new or is_erasing, worst or code
        if code == INTERRUPTED or (code and is_erasing):
            break
    return worst


def _begin(step: StepShape) -> None:
    for key in ("seconds", "line", "file"):
        step.pop(key, None)
    step["state"], step["host"] = "running", socket.gethostname()


def _place(word: str, out: Path, name: str) -> str:
    return str(out / name) if word == name else word


def wait_for(folder: Path) -> None:
    """Wait while another process holds the run, as one that was just killed may for a moment."""
    until = time.monotonic() + PATIENCE
    while is_held(folder) and time.monotonic() < until:
        time.sleep(0.2)


def _timed(
    step: StepShape, folder: Path, log: Path, run: Callable[[Sequence[str]], int],
    words: Sequence[str],
) -> int:  # fmt: skip
    """Run one step and note its end; its exit code."""
    start, began = time.monotonic(), log.stat().st_size if log.is_file() else 0
    since = time.time()
    code = run(words)
    sys.stdout.flush()
    sys.stderr.flush()
    step["seconds"] = round(time.monotonic() - start, 1)
    step["line"] = last_line(log, began)
    step["state"] = "done" if code == 0 else "missing" if code == INTERRUPTED else "failed"
    if code == 0:
        step["file"] = _left(step, folder, since)
    return code


def _left(step: StepShape, folder: Path, since: float) -> str:
    """The file that tells that a step is done: an evaluation's is named after what was asked."""
    word = what(step)
    if word in ("erase", "forget"):
        return "edit.json"
    if word != "evaluate":
        return f"attacks/{word}.json"
    scores = sorted((folder / "scores").glob("*.json"), key=lambda file: file.stat().st_mtime)
    # a file system may keep times to two seconds
    new = [file for file in scores if file.stat().st_mtime >= since - 2]
    return f"scores/{(new or scores)[-1].name}"


def last_line(log: Path, start: int = 0) -> str:
    """The last line with anything in it after so many bytes; empty if there is none."""
    if not log.is_file():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(start, stream.seek(0, os.SEEK_END) - 2**16))
        lines = stream.read().decode(errors="replace").split("\n")
    told = [line.split("\r")[-1].strip() for line in lines]
    return next((line[:LONGEST] for line in reversed(told) if line), "")


def erasure_command(words: Sequence[str]) -> int:
    """`python -m erasure WORDS` in this process; its exit code."""
    print(f"$ erasure {' '.join(words)}", flush=True)
    sys.argv = ["erasure", *words]
    try:
        runpy.run_module("erasure", run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Run a cell by its name; an ErasureError of the record itself is one line and code 2."""
    out, name = Path(sys.argv[1]), sys.argv[2]
    try:
        code = run_cell(out, name, erasure_command)
    except ErasureError as error:
        print(f"erasure: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)


if __name__ == "__main__":
    main()
