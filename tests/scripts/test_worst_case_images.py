"""The search for the hardest images and classes to forget, and the table beside it."""

import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import worst_case_images
from classifier_matrix import pictures
from classifier_networks import LABELS, MINIATURES

WRONG = ("red/0.png", "grey/1.png")
SEARCH = ["--rounds", "4", "--steps", "30", "--step-size", "3e-3", "--batch-size", "8"]


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """A miniature and pictures of four colours, of which two are of another colour than they say;
    no option of the search.
    """
    MINIATURES["timm ResNet-18, CIFAR stem"](tmp_path / "model")
    found = pictures()
    by_name = dict(zip(found.ids, found.images, strict=True))
    by_name[WRONG[0]], by_name[WRONG[1]] = by_name[WRONG[1]], by_name[WRONG[0]]
    for part in ("train", "test"):
        for name, pixels in by_name.items():
            file = tmp_path / "data" / part / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file)
    return [
        "worst_case_images.py", "--model", str(tmp_path / "model"),
        "--data", str(tmp_path / "data"), "--images", "0", "--test-images", "0",
        "--out", str(tmp_path / "out"), "--methods", "random-label", "--settings", "batch_size=8",
    ]  # fmt: skip


def test_what_says_something_else_is_not_among_what_stays_known(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = [*asked, "--share", "0.5", "--sets", "2", *SEARCH]
    monkeypatch.setattr(sys, "argv", words)
    worst_case_images.main()
    chosen = (tmp_path / "out" / "chosen.txt").read_text().splitlines()
    assert len({*chosen}) == 12
    assert not {*WRONG} & {*chosen}
    table = capsys.readouterr().out
    assert table.splitlines()[-1].startswith("| random-label | ")
    assert table.splitlines()[-1].endswith(" of 2 |")
    kept = {place: place.stat().st_mtime_ns for place in (tmp_path / "out").rglob("edit.json")}
    assert len(kept) == 4  # chosen, surest, two by chance
    worst_case_images.main()
    assert kept == {place: place.stat().st_mtime_ns for place in kept}
    assert capsys.readouterr().out == table


def test_classes_are_chosen_by_their_held_out_images(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [*asked, "--count", "2", "--sets", "1", *SEARCH])
    monkeypatch.setattr(worst_case_images, "forgotten", lambda *_given: 0.5)
    worst_case_images.main()
    chosen = (tmp_path / "out" / "chosen.txt").read_text().splitlines()
    assert len(chosen) == 2
    assert {*chosen} < {*LABELS}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--count", "4"], "must be from 1 to 3, fewer than the 4 there are; got 4."),
        (["--share", "0"], "must be from 1 to 23, fewer than the 24 there are; got 0."),
        (["--sets", "0"], "sets must be at least 1; got 0."),
    ],
)
def test_more_than_there_is_is_one_line(
    words: list[str], told: str, asked: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", [*asked, *words])
    with pytest.raises(SystemExit) as ended:
        worst_case_images.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip().endswith(told)
