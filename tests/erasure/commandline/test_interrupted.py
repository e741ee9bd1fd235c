"""Ctrl-C: what the command line says of it is true."""

from collections.abc import Callable
from pathlib import Path

import pytest

from erasure.commandline.interrupted import AFTER, GO_ON, NOTHING
from erasure.commandline.main import app
from erasure.erasing import erase

Program = Callable[..., tuple[int, str, str]]


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_it_is_known_of_every_command_that_works_for_long() -> None:
    groups = {group.name for group in app.registered_groups}
    commands = {c.name or c.callback.__name__ for c in app.registered_commands}  # type: ignore[union-attr]
    assert AFTER.keys() <= groups | commands
    assert groups <= AFTER.keys()


def test_an_export_leaves_nothing(
    program: Program, tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    erase(listed, "uce", "cat", out=run)
    with monkeypatch.context() as patched:
        patched.setattr("erasure.exports.forms.diffusers.save_model", interrupt)
        code, _, err = program("export", run, out)
    assert (code, err) == (130, f"erasure: interrupted; {NOTHING}.\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]
    assert program("export", run, out)[0] == 0


def test_a_dry_run_leaves_nothing(
    program: Program, tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("erasure.training.run.Run.watch", interrupt)
    words = ["erase", "esd", "--model", listed, "--concept", "cat", "--out", tmp_path / "run"]
    code, _, err = program(*words, "--dry_run", "--paths", 1, "--sampling-steps", 2)
    assert (code, err) == (130, f"erasure: interrupted; {NOTHING}.\n")
    assert list(tmp_path.iterdir()) == []


def test_an_erasure_goes_on(
    program: Program, tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["erase", "uce", "--model", listed, "--concept", "cat", "--out", tmp_path / "run"]
    with monkeypatch.context() as patched:
        patched.setattr("erasure.edit.Edit.save", interrupt)
        code, _, err = program(*words)
    assert (code, err) == (130, f"erasure: interrupted; {GO_ON}.\n")
    assert program(*words)[0] == 0
    assert (tmp_path / "run" / "edit.json").is_file()
