"""The live display: shown where someone looks and it takes long, and one at a time."""

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from erasure.training import progress
from erasure.training.progress import live_bar, shown, waiting


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a terminal is sent."""
    sent = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda **_: Console(file=sent, force_terminal=True, width=100)
    )
    yield sent
    assert progress._open == []


def test_what_is_soon_done_shows_nothing(screen: io.StringIO) -> None:
    assert list(shown([1, 2, 3], "counting")) == [1, 2, 3]
    assert screen.getvalue() == ""


def test_what_takes_long_has_a_bar_with_the_time_left(
    screen: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 1000, 2))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(now)))
    assert list(shown(iter("abcd"), "counting", 4)) == list("abcd")
    assert "counting" in screen.getvalue()
    assert "/4" in screen.getvalue()


def test_names_are_shown_as_they_are(screen: io.StringIO) -> None:
    with live_bar("opening cat[v1]", 1) as bar:
        bar.advance("[/b] left")
    with waiting("writing dog[/b]"):
        pass
    for text in ("opening cat[v1]", "[/b] left", "writing dog[/b]"):
        assert text in screen.getvalue()


def test_a_bar_inside_of_another_is_silent(screen: io.StringIO) -> None:
    with live_bar("outer", 1) as bar:
        with live_bar("inner", 2) as other:
            other.advance()
        with waiting("waiting"):
            pass
        bar.advance()
    assert "outer" in screen.getvalue()
    assert "inner" not in screen.getvalue()
    assert "waiting" not in screen.getvalue()


def test_what_ends_early_leaves_no_bar(screen: io.StringIO) -> None:
    def stop_at_two() -> None:
        for number in shown([1, 2, 3], "counting"):
            if number == 2:
                raise InterruptedError

    with pytest.raises(InterruptedError):
        stop_at_two()
    with live_bar("next", 1) as bar:
        bar.advance()
    assert "next" in screen.getvalue()
