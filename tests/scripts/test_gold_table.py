"""The table beside gold: what it asks for, and that figures of one form never stand in another."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import gold_table

RATES = {"uce": 0.75, "esd": 0.5}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would run; each leaves the record that the real one does."""
    given = list[list[str]]()

    def run(*words: object) -> None:
        verb, name, *rest = map(str, words)
        given.append([verb, name, *rest])
        if verb == "erase":
            folder = Path(rest[rest.index("--out") + 1])
            folder.mkdir(parents=True)
            (folder / "edit.json").write_text("{}")
            return
        folder = Path(rest[0])
        rate = RATES[folder.parent.name]
        scores = {"ASR": {"value": rate}, "ASR_gold": {"value": 0.25}, "excess": {"value": 0}}
        (folder / "attacks").mkdir(exist_ok=True)
        (folder / "attacks" / f"{name}.json").write_text(json.dumps({"scores": scores}))

    monkeypatch.setattr(gold_table, "erasure", run)
    return given


def called(monkeypatch: pytest.MonkeyPatch, out: Path, *more: str) -> None:
    words = ["--concepts", "tower", "--methods", "uce,esd", "--attacks", "noise", "--no-protocol"]
    monkeypatch.setattr(sys, "argv", ["gold_table.py", "--out", str(out), *words, *more])
    gold_table.main()


def test_each_method_is_attacked_beside_gold_and_what_is_there_is_kept(
    asked: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "gold"
    called(monkeypatch, out, "--quick", "--prompts", "8")
    assert [words[:2] for words in asked] == [
        ["erase", "gold"], ["erase", "uce"], ["attack", "noise"], ["erase", "esd"],
        ["attack", "noise"],
    ]  # fmt: skip
    attack = asked[2]
    assert attack[attack.index("--gold") + 1] == str(out / "gold" / "tower")
    assert attack[attack.index("--prompts") + 1] == "8"
    assert "--quick" in attack
    lines = capsys.readouterr().out.splitlines()
    assert "| tower | uce | 75 |" in lines
    assert "| tower | esd | 50 |" in lines
    assert "| tower | **gold** | 25 |" in lines
    asked.clear()
    called(monkeypatch, out, "--quick", "--prompts", "8")
    assert asked == []


def test_figures_of_the_quick_form_do_not_stand_for_the_whole(
    asked: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    called(monkeypatch, tmp_path, "--quick")
    asked.clear()
    with pytest.raises(SystemExit):
        called(monkeypatch, tmp_path)
    assert "made with quick True" in capsys.readouterr().err
    assert asked == []
