"""How the figures of many edits agree with gold's: the table's cells."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import meta_evaluation as meta


def edits(concept: str, moved: list[float], divergence: list[float]) -> dict:
    return {
        (concept, "uce", str(number)): {"moved": m, "divergence": d}
        for number, (m, d) in enumerate(zip(moved, divergence, strict=True))
    }


def test_every_concept_has_its_correlation_one_of_zero_too() -> None:
    found = edits("tower", [1, 2, 3, 4], [2, 1, 4, 3]) | edits("fish", [1, 2, 3], [2, 3.5, 2])
    assert meta.agreement(found, "moved", "divergence").endswith("(-0.60, 0.00)")
    found |= edits("cat", [1, 2, 3], [3, 2, 1])
    assert meta.agreement(found, "moved", "divergence").endswith("(-0.60, 0.00, 1.00)")


def test_what_no_correlation_is_taken_of_is_a_dash_in_its_place() -> None:
    few, alike = edits("tower", [1, 2], [2, 1]), edits("fish", [1, 1, 1], [1, 2, 3])
    assert meta.agreement(few, "moved", "divergence") == "- (-)"
    assert meta.agreement(few | alike, "moved", "divergence").endswith("(-, -)")
