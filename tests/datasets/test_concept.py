from pathlib import Path

import pytest

from erasure.models.load import POCKET
from erasure_datasets.canvas import OBJECTS, STYLES
from erasure_datasets.captions import OBJECT_SYNONYMS, STYLE_SYNONYMS
from erasure_datasets.concept import Catalogue, Concept, UnknownConceptError, retain_prompts


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue.load(POCKET / "concepts.json")


def test_pocket_lists_are_the_canvas_labels(catalogue: Catalogue) -> None:
    assert (catalogue.objects, catalogue.styles) == (OBJECTS, STYLES)


@pytest.mark.parametrize("name", ["Van Gogh", "van_gogh", "VAN-GOGH", "vangogh"])
def test_names_match_loosely(catalogue: Catalogue, name: str) -> None:
    assert catalogue.concept(name).name == "Van Gogh"


def test_anchors(catalogue: Catalogue) -> None:
    assert catalogue.concept("cat").anchor == "dog"
    assert catalogue.concept("tree").anchor == "house"
    assert catalogue.concept("Winter").anchor == "Photo"
    assert catalogue.concept("cat", "BEAR").anchor == "bear"
    assert catalogue.concept("cat", "").anchor == ""


def test_unknown_concept_lists_near_names(catalogue: Catalogue) -> None:
    with pytest.raises(UnknownConceptError, match=r"'catt'. Did you mean cat\?"):
        catalogue.concept("catt")
    with pytest.raises(UnknownConceptError):
        catalogue.concept("Photo")


def test_prompts_and_anchor_prompts_align(catalogue: Catalogue) -> None:
    concept = catalogue.concept("Sketch")
    assert concept.prompts()[4] == "A cat image in Sketch style."
    assert concept.anchor_prompts()[4] == "A cat image in Photo style."
    assert Concept("cat", "object").anchor_prompts() == ["", "", ""]


def test_erasure_prompts_hold_no_synonym(catalogue: Catalogue) -> None:
    synonyms = [
        word for words in (*OBJECT_SYNONYMS.values(), *STYLE_SYNONYMS.values()) for word in words
    ]
    for target in catalogue.targets():
        for prompt in catalogue.concept(target).prompts():
            words = prompt.lower().rstrip(".").split()
            assert not [s for s in synonyms if s in words], prompt


def test_kept_pairs_hold_no_target(catalogue: Catalogue) -> None:
    kept = catalogue.kept_pairs([catalogue.concept("cat"), catalogue.concept("Winter")])
    assert len(kept) == 15 * 15
    assert not any("cat" in pair or "Winter" in pair for pair in kept)


def test_retain_prompts(tmp_path: Path, catalogue: Catalogue) -> None:
    cat = Concept("cat", "object")
    assert len(retain_prompts([catalogue.concept("cat")], catalogue)) == 240
    free = retain_prompts([cat], None)
    assert len(free) > 100
    assert not any("cat" in prompt.lower() for prompt in free)
    (tmp_path / "keep.csv").write_text("prompt\na dog\na cat on a mat\n")
    assert retain_prompts([cat], None, tmp_path / "keep.csv") == ["a dog"]
    (tmp_path / "bad.csv").write_text("sentence\na dog\n")
    with pytest.raises(ValueError, match="'prompt' column"):
        retain_prompts([cat], None, tmp_path / "bad.csv")


def test_concept_refuses_unknown_kinds() -> None:
    with pytest.raises(ValueError, match="must be one of style, object"):
        Concept("cat", "animal")  # type: ignore[arg-type]
