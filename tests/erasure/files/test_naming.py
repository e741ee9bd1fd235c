"""Concepts as file names."""

import pytest

from erasure.files.naming import slug


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
