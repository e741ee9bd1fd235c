"""Whole words: which prompts name a concept."""

from pathlib import Path

import pytest

from erasure.models.built_in import POCKET
from erasure_datasets.concept import Catalogue, Concept, mentions, retain_prompts


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A fish image in Photo style.", "fish"),
        ("a CAT on a mat", "cat"),
        ("two cats, the cat's tail", "Cat"),
        ("cats’ tails", "cat"),
        ("a photo of a cat", "Cats"),
        ("three butterflies", "butterfly"),
        ("a butterfly", "Butterflies"),
        ("many sandwiches", "sandwich"),
        ("a horse", "Horses"),
        ("a fish", "Fishes"),
        ("starry van_gogh sky", "Van Gogh"),
        ("VanGogh-style", "van gogh"),
        ("in van  gogh's manner", "Van-Gogh"),
        ("a cat-like animal", "cat"),
        ("by Salvador Dali", "Salvador Dalí"),
        ("STRASSE", "straße"),
        ("Ｃａｔ", "cat"),
        ("一只猫的照片", "猫"),
        ("고양이는 잔다", "고양이"),
        ("a bus", "bus"),
        ("a 🐱x", "🐱"),
        ("C++ on a screen", "c++"),
        ("cat", "cat"),
        ("a jellyfish and a fish", "fish"),
    ],
)
def test_named(text: str, name: str) -> None:
    assert mentions(text, name)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A jellyfish image in Photo style.", "fish"),
        ("a cartoon, pop artist", "art"),
        ("a category", "cat"),
        ("catfish", "cat"),
        ("a photo of a person", "a photo of a dog"),
        ("हाथी", "हाथ"),  # the first goes on with a vowel sign
        ("cat2", "cat"),
        ("a bu", "bus"),
        ("an iri", "iris"),
        ("", "cat"),
        ("a (b)", "(a)"),
        ("anything", " - "),
    ],
)
def test_not_named(text: str, name: str) -> None:
    assert not mentions(text, name)


def test_a_name_within_another_word_empties_nothing() -> None:
    catalogue = Catalogue.load(POCKET / "concepts.json")
    kept = retain_prompts([catalogue.concept("fish")], catalogue)
    assert len(kept) == 240
    assert sum("jellyfish" in prompt for prompt in kept) == 16
    free = retain_prompts([Concept("art", "object")], None)
    assert any("cartoon" in prompt for prompt in free)


def test_what_emptied_the_list_is_said(tmp_path: Path) -> None:
    (tmp_path / "keep.csv").write_text("prompt\na cat\ntwo dogs\n")
    with pytest.raises(
        ValueError, match=r"must not name cat or dog; each of the 2 prompts of .*keep"
    ):
        retain_prompts(
            [Concept("cat", "object"), Concept("dog", "object")], None, tmp_path / "keep.csv"
        )
