"""Prompts that name several concepts of a request: what is wanted instead names none of them."""

import pytest

from erasure.methods.diffusion.sfd import SFD
from erasure.methods.shared.aligned_prompts import anchored_pairs, without
from erasure.methods.shared.paths import push_rows
from erasure_datasets.concept import Concept, mentions
from evaluation.drawing.pocket_plan import catalogue

CAT = Concept("cat", "object", anchor="owl")
CHURCH = Concept("church", "object", anchor="a house")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A cat image in Winter style.", "An owl image in Winter style."),
        ("the Cat and a CAT", "the owl and an owl"),
        ("a church among cats", "a house among owls"),
        ("An old church", "An old house"),
        ("church", "a house"),
        ("a jellyfish", "a jellyfish"),
        ("a c\u00e1t", "an image of an owl"),  # a form that is found and not replaced
    ],
)
def test_a_name_makes_way_with_its_article(text: str, wanted: str) -> None:
    assert without(text, [CAT, CHURCH]) == wanted


def test_a_name_without_an_anchor_leaves_nothing() -> None:
    assert without("a cat in a church", [CAT, Concept("church", "object")]) == ""


def test_no_target_names_what_is_erased() -> None:
    """A prompt of two concepts is asked once, for what is left of it."""
    names = ("cat", "dog", "Winter", "Ukiyoe")
    concepts = [catalogue().concept(name) for name in names]
    rows = {
        "anchors": anchored_pairs(concepts),
        "pushed": push_rows(concepts, "anchor"),
        "taught": SFD()._rows(concepts),
    }
    for told in rows.values():
        assert len({row[0] for row in told}) == len(told) == 4 * 16 - 4
        assert not [row for row in told for name in names if mentions(row[1], name)]
    assert dict(rows["anchors"])["A cat image in Winter style."] == "A fish image in Photo style."
