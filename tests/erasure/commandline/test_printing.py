"""What commands print: names as they are, whatever Rich would make of them."""

import pytest

from erasure.commandline.printing import print_scores, print_table


@pytest.mark.parametrize("columns", ["200", "20"])
def test_a_tables_cells_and_heads_are_no_markup(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    print_table([{"run": "runs/cat[v1]", "ASR [x]": "[/b]", "by": ":cat:"}])
    printed = capsys.readouterr().out
    for text in ("runs/cat[v1]", "ASR [x]", "[/b]", ":cat:"):
        assert text in printed


def test_scores_and_their_title_are_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    score = {"value": 0.5, "stderr": 0.1, "n": 4}
    print_scores({"protocol": "own[/b]", "baseline": {}, "scores": {"UA [v1]": score}})
    printed = capsys.readouterr().out
    assert "protocol own[/b]" in printed
    assert "UA [v1]" in printed
