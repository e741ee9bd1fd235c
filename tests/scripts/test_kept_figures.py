"""Scripts that keep what is finished: another ask in the same folder is refused, or is no other."""

import json
import runpy
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
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
    "torture": "seed", "undo_table": "count", "worst_case": "count", "worst_case_images": "count",
}  # fmt: skip
# options that the record need not hold: they stand in the place of a figure or are checked there,
# or say what is shown, and how much is measured in this call
ELSEWHERE = {
    "attack_table": "concepts methods attacks",
    "corrective_generator": "methods at_most",
    "corrective_table": "data manipulation share pair patch seed known methods at_most",
    "erasure_table": "concepts methods subset each",
    "generalisation_table": "concepts methods seeds finished",
    "gold_table": "concepts methods attacks protocol",
    "mask_curve": "concept scores keeps at_most",
    "meta_evaluation": "concepts methods finished at_most",
    "sample_table": "methods originals repeats",
    "undo_table": "methods penalties",
    "worst_case": "sets at_most",
    "worst_case_images": "methods sets retrained",
}


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


@pytest.mark.parametrize("script", ELSEWHERE)
def test_every_option_that_decides_a_figure_is_noted(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new option is either in the record or, on purpose, in the list above."""
    found = dict[str, set[str]]()

    def stop(parser: ArgumentParser, asked: Namespace, words: Sequence[str]) -> None:
        options = {action.dest for action in parser._actions}
        found.update(options=options - {"help", "out", "markdown"}, words={*words})
        assert found["words"] <= vars(asked).keys()
        raise SystemExit

    monkeypatch.setattr(kept_figures, "refuse_others", stop)
    words = [f"{script}.py", "--out", str(tmp_path), *NEEDED.get(script, [])]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
    assert found["options"] - found["words"] == {*ELSEWHERE[script].split()}


def test_every_script_that_keeps_figures_is_asked() -> None:
    using = [file.stem for file in SCRIPTS.glob("*.py") if "refuse_others(" in file.read_text()]
    assert {*using} - {"kept_figures"} == WORDS.keys()
    assert WORDS.keys() - {"torture"} == ELSEWHERE.keys()


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
