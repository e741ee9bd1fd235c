"""A short torture, and that it notices what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WHOLE = {"part": "kills", "name": "erase esd", "number": 0, "kills": 2}


def test_a_short_torture_knocks_nothing_over(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "torture.py", "--out", tmp_path / "torture",
         "--parts", "kills,inputs,writes,together", "--only", "erase esd", "--kills", "1",
         "--inputs", "10", "--writes", "2"],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = (tmp_path / "torture" / "tried.jsonl").read_text().splitlines()
    assert {json.loads(line)["part"] for line in lines} == {"kills", "inputs", "writes", "together"}
    assert len(lines) >= 1 + 10 + 4 + 2


@pytest.mark.slow
def test_every_command_works_undisturbed(tmp_path: Path) -> None:
    """Or the torture would end there; of inputs, or it would be refused whatever is spoilt."""
    code = (
        "import sys; from pathlib import Path; from torture_ground import run;"
        "from torture_kills import cases; import torture_inputs as inputs\n"
        "place = Path(sys.argv[1])\n"
        "for name, case in cases(place).items():\n"
        "    case.begin(); ended = run(case.work); assert ended.code == 0, (name, ended.said)\n"
        "inputs.make_wholes(place)\n"
        "words = [t.words for of_sort in inputs.targets(place).values() for t in of_sort]\n"
        "words += [inputs.whole_arguments(place, verb) for verb in inputs.ARGUMENTS]\n"
        "for each in words: inputs.check_whole(place, each)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(
            [str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_a_command_that_is_refused_anyway_is_no_torture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import torture_inputs as inputs
    from torture_ground import Ended

    (tmp_path / "runs" / "below-uce").mkdir(parents=True)
    monkeypatch.setattr(inputs, "run", lambda _: Ended(2, "erasure: No such option: --x", 0.0))
    with pytest.raises(RuntimeError, match="fails with nothing wrong: erasure: No such option"):
        inputs.check_whole(tmp_path, ("erase", "--x"))


def test_what_is_spoilt_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torture that is killed while a file is spoilt leaves it so, and the next one goes on."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import torture_inputs as inputs

    for name in ("runs/whole", "runs/whole-other", "models/sd1", "models/vit/images"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "models" / "vit" / "images" / "3.png").write_text("whole")
    inputs.refresh(tmp_path)
    (tmp_path / "spoilt" / "vit" / "images" / "3.png").write_text("spoilt")
    inputs.refresh(tmp_path)
    assert (tmp_path / "spoilt" / "vit" / "images" / "3.png").read_text() == "whole"
    anew = (tmp_path / "spoilt", tmp_path / "files")
    files = [t.file for of_sort in inputs.targets(tmp_path).values() for t in of_sort]
    assert all(any(file.is_relative_to(place) for place in anew) for file in files), files


@pytest.mark.parametrize(
    "wrong", [{"lost": True}, {"tracebacks": 1}, {"stray": ["x"]}, {"half": ["x"]}, {"leaks": 1}]
)
def test_what_is_wrong_counts(wrong: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from torture import is_bad, table

    assert not is_bad(WHOLE)
    assert is_bad({**WHOLE, **wrong})
    row = table([WHOLE, {**WHOLE, "number": 1, **wrong}]).splitlines()[-1]
    assert row.startswith("| SIGKILL at random moments | 4 | ")
    assert row != table([WHOLE, {**WHOLE, "number": 1}]).splitlines()[-1]
