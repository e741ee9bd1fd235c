"""Concepts as file names, and the names of folders."""

from pathlib import Path

import pytest

from erasure.files.naming import short_names, slug


@pytest.mark.parametrize(
    ("name", "file"),
    [("cat", "cat"), ("Van Gogh", "Van_Gogh"), ("v1.5", "v1.5"), ("pfau-é", "pfau-é")],
)
def test_plain_names_stay_as_they_are(name: str, file: str) -> None:
    assert slug(name) == file


HARD = [
    "../up", "../../precious", "/etc/passwd", "AC/DC", "sea\\lake", "..", ".", ".hidden", "a" * 300,
    "con", "NUL.txt", "a dog", "a_dog", "a  dog", " a dog", "a dog.", 'say "hi"', "C:", "🐱",
    "\ud800", "é" * 80, "\0", "-x", "",
]  # fmt: skip


@pytest.mark.parametrize("name", HARD)
def test_no_name_leaves_its_folder(name: str) -> None:
    made = slug(name)
    assert made
    assert not set(made) & set('/\\:"\0?*<>|')
    assert made not in (".", "..")
    assert made[0] not in ".-"
    assert len(made.encode()) < 128


def test_no_two_names_share_a_file() -> None:
    assert len({slug(name) for name in HARD}) == len(HARD)


def test_folders_have_the_shortest_names_that_tell_them_apart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here, home = tmp_path / "here", tmp_path / "home"
    for folder in (here, home):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(Path, "home", lambda: home)
    assert short_names([Path("/a/x/cat"), Path("/b/x/dog")]) == ["cat", "dog"]
    assert short_names([Path("/a/x/cat"), Path("/b/x/cat")]) == ["a/x/cat", "b/x/cat"]
    assert short_names([Path("/a/x/cat")], 2) == ["x/cat"]
    own = [here / "runs" / "cat", home / "runs" / "cat"]
    assert short_names(own) == ["runs/cat (1)", "runs/cat (2)"]
