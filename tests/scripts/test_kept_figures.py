"""Scripts that keep what is finished: another ask in the same folder is refused, or is no other."""

import json
import runpy
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import kept_figures  # noqa: E402

NEEDED = {"sample_table": ["--data", "images"], "corrective_table": ["--data", "images"]}
WORDS = {
    "attack_table": "prompts", "corrective_generator": "steps", "corrective_table": "architecture",
    "erasure_table": "model", "generalisation_table": "subset", "gold_table": "gold",
    "mask_curve": "steps", "meta_evaluation": "gold", "sample_table": "architecture",
    "torture": "seed", "worst_case": "count",
}  # fmt: skip


@pytest.mark.parametrize("script", WORDS)
def test_figures_of_another_ask_are_refused(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    word = WORDS[script]
    (tmp_path / kept_figures.RECORD).write_text(json.dumps({word: "another"}))
    (tmp_path / "figures.json").write_text("{}")
    words = [f"{script}.py", "--out", str(tmp_path), *NEEDED.get(script, [])]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    assert ended.value.code == 2
    assert f"were made with {word} another; got" in capsys.readouterr().err
    assert {file.name for file in tmp_path.iterdir()} == {kept_figures.RECORD, "figures.json"}


def test_a_folder_without_figures_is_free(tmp_path: Path) -> None:
    def ask(steps: int | None) -> None:
        asked = Namespace(out=tmp_path / "out", steps=steps)
        kept_figures.refuse_others(ArgumentParser(), asked, ("steps",))

    ask(5)
    ask(None)  # the first failed before it had anything to keep
    (tmp_path / "out" / "cell").mkdir()
    (tmp_path / "out" / "cell" / "scores.json").write_text("{}")
    ask(None)
    with pytest.raises(SystemExit):
        ask(5)
