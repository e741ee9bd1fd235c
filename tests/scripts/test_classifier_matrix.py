"""The contract of forgetting methods on every kind of classifier: it works, or refuses in a line.

A method of a new file is in it by itself.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from classifier_matrix import lines, tried
from classifier_networks import MINIATURES

from erasure.registry import METHODS

NAMES = METHODS.names("classifier")


@pytest.mark.parametrize("kind", MINIATURES)
def test_every_method_works_or_says_why_not(kind: str, tmp_path: Path) -> None:
    MINIATURES[kind](tmp_path / "model")
    refusals = {
        (method, asked): tried(method, tmp_path / "model", asked, tmp_path / f"{method}-{asked}")
        for method in NAMES
        for asked in ("class", "samples")
    }
    told = {pair: refusal for pair, refusal in refusals.items() if refusal}
    for method in ("fine-tune", "gradient-ascent", "random-label", "salun", "ssd", "retrain"):
        assert {asked: told.get((method, asked)) for asked in ("class", "samples")} == {
            "class": None, "samples": None,
        }  # fmt: skip
    assert "forgets whole classes" in told["gs-lora", "samples"]
    is_transformer = "Net" not in kind or "ConvNeXt" in kind
    assert (("gs-lora", "class") in told) is not is_transformer


def test_the_table_numbers_each_refusal_once() -> None:
    cells = {("a", "X", "class"): "", ("a", "X", "samples"): "Why.",
             ("b", "X", "class"): "Why.", ("b", "X", "samples"): "Why."}  # fmt: skip
    table = lines(cells)
    assert table[2] == "| X | yes / no (1) | no (1) |"
    assert table[-1] == "1. Why."
