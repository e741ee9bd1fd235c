"""What a sweep shows on a terminal: cells by their names, whatever Rich would make of them."""

import io
from typing import Any

import pytest
from rich.console import Console

from erasure.files.records import CellShape
from evaluation.sweeping import showing
from evaluation.sweeping.showing import live_table

NAME = "uce-cat[v1]-[/b]-:cat:"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_names_are_shown_as_they_are(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = io.StringIO()
    monkeypatch.setattr(
        showing, "Console",
        lambda **given: Console(
            **{**given, "stderr": False}, file=sent, force_terminal=is_terminal, width=100
        ),
    )  # fmt: skip
    monkeypatch.setattr(showing, "LOOK", 0.0)
    step: Any = {"command": ["erase", "uce"], "state": "running"}
    cell = CellShape(name=NAME, method="uce", concepts=["[/b]"], seed=0, steps=[step])
    with live_table({NAME: cell}, [NAME], lambda _: None) as (tick, told):
        tick()
        told(NAME)
    assert NAME in sent.getvalue()
