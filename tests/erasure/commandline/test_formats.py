"""`convert`, `diff` and `export --layout` on the command line: exit codes and what is printed."""

import sys
from pathlib import Path

import pytest
import torch
from altered import weighted

from erasure.commandline.main import main


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: object
) -> tuple[int, str, str]:
    """Run the command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["erasure", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_diff_ends_with_0_whether_they_differ_or_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, sd1: Path, tmp_path: Path
) -> None:
    name = "conv_in.weight"
    other = weighted(sd1, tmp_path, "unet", lambda tensors: tensors[name].add_(1))
    code, out, _ = call(monkeypatch, capsys, "diff", sd1, sd1)
    assert (code, "0 of " in out, name in out) == (0, True, False)
    file = tmp_path / "found.csv"
    code, out, _ = call(monkeypatch, capsys, "diff", sd1, other, "--out", file)
    assert (code, "1 of " in out, f"unet.{name}" in out, "100.00%" in out) == (0, True, True, True)
    assert f"differs,unet.{name}," in file.read_text()


def test_diff_cuts_a_long_table_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, sd1: Path, tmp_path: Path
) -> None:
    def move(tensors: dict[str, torch.Tensor]) -> None:
        for tensor in tensors.values():
            tensor += 1

    other = weighted(sd1, tmp_path, "unet", move)
    code, out, _ = call(monkeypatch, capsys, "diff", sd1, other)
    assert code == 0
    assert sum("unet." in line for line in out.splitlines()) == 40
    assert "more; --out FILE.csv has all." in out


def test_convert_and_its_mistakes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, sd1: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("convert", sd1, out, "--to", "single-file", "--dtype", "float16")
    code, told, _ = call(monkeypatch, capsys, *command)
    assert (code, told.strip()) == (0, f"{out} written (single-file, float16)")
    (tmp_path / "run").mkdir()
    for arguments, message in (
        (command, "out must be a new folder"),
        (("convert", sd1, tmp_path / "new"), "--to"),
        (
            ("convert", sd1, tmp_path / "new", "--to", "delta"),
            "to must be diffusers or single-file",
        ),
        (("diff", sd1, tmp_path / "none"), "model must be pocket"),
        (("diff", sd1, sd1, "--out", "found.xlsx"), "out must end in .json, .csv, .md"),
    ):
        code, _, err = call(monkeypatch, capsys, *arguments)
        assert (code, message in err, len(err.strip().splitlines())) == (2, True, 1), err
    assert not (tmp_path / "new").exists()
