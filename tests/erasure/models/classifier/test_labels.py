"""Which class a word means."""

import pytest

from erasure.errors import SettingError
from erasure.models.classifier.labels import Labels

LABELS = Labels(
    ("tench, Tinca tinca", "goldfish, Carassius auratus", "crane", "maillot", "crane", "Red_Fox",
     "bee", "bee eater, bird", "7", "drum", "drum, membranophone", "cock, rooster", "cock, male"),
    "it",
)  # fmt: skip


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("tench, Tinca tinca", 0), ("tench", 0), ("TENCH,tinca tinca", 0), ("red fox", 5),
        ("red-fox", 5), ("bee", 6), ("bee eater", 7), ("7", 8), ("#7", 7), ("2", 2), ("#4", 4),
        ("crane #4", 4), ("crane#2", 2), ("drum", 9), (" maillot ", 3),
    ],
)  # fmt: skip
def test_one_class(word: str, number: int) -> None:
    assert LABELS.find(word) == number


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("crane", r"more than one of it; give #2 \(crane\) or #4 \(crane\)"),
        ("cock", r"more than one .* #11 \(cock, rooster\) or #12 \(cock, male\)"),
        ("cra", "no class 'cra'"),
        ("#13", "no class '#13'"),
        ("-1", "no class '-1'"),
        ("", "no class ''"),
        ("crane #3", "no class 'crane #3'"),
        ("²", "no class"),
    ],
)
def test_none_or_several(word: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        LABELS.find(word)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("tench, Tinca tinca", [0]),
        ("tench, Tinca tinca, goldfish, Carassius auratus,bee", [0, 1, 6]),
        ("tench,goldfish", [0, 1]),
        ("bee, bee eater, bird", [6, 7]),
        ("#4,maillot,,", [4, 3]),
        ("drum, membranophone, drum", [10, 9]),
        (" , ", []),
    ],
)
def test_texts_with_commas(text: str, numbers: list[int]) -> None:
    assert LABELS.split(text) == numbers


def test_every_title_finds_its_class() -> None:
    odd = Labels(("a", "a", "", "A", "a #0", "#1", "12", "x, y", "x"), "it")
    for labels in (LABELS, odd):
        titles = [labels.title(number) for number in range(len(labels.names))]
        assert len(set(titles)) == len(titles)
        assert [labels.find(title) for title in titles] == list(range(len(titles)))
