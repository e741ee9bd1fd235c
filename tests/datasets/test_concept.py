import json
from pathlib import Path

import pytest

from erasure.models.built_in import POCKET
from erasure_datasets.canvas import OBJECTS, STYLES
from erasure_datasets.captions import OBJECT_SYNONYMS, STYLE_SYNONYMS
from erasure_datasets.concept import (
    USER_KINDS,
    Catalogue,
    Concept,
    UnknownConceptError,
    filled,
    retain_prompts,
)
from erasure_datasets.errors import DataError
from erasure_datasets.paraphrases import paraphrases


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


def test_kinds_that_a_user_may_give() -> None:
    assert USER_KINDS == ("style", "object", "person", "unsafe")


def test_names_far_from_any_are_no_hint(catalogue: Catalogue) -> None:
    for name in ("elephant", "airplane"):
        with pytest.raises(UnknownConceptError, match="Known: house, bear"):
            catalogue.concept(name)


def test_the_article_of_free_text() -> None:
    assert Concept("elephant", "object").prompts() == [
        "an image of an elephant", "a photo of an elephant", "an elephant",
    ]  # fmt: skip
    assert Concept("cat", "object", anchor="owl").anchor_prompts()[2] == "an owl"
    kept = retain_prompts([Concept("cat", "object")], None)
    assert not [text for text in kept if " a o" in text or " a a" in text]
    assert filled("a {name}", "owl") == "a owl"  # a user's own template, and edits of before


@pytest.mark.parametrize("name", ["{x}", "100%{", "{name}", "{}", "{0.__class__}", r"\1 \g<0>"])
def test_braces_are_only_text(catalogue: Catalogue, name: str) -> None:
    assert Concept(name, "object", ("see {name} {",)).prompts() == [f"see {name} {{"]
    assert catalogue.prompt(name, "Photo") == f"A {name} image in Photo style."
    assert paraphrases(Concept(name, "style"), "x", None)[1] == f"{name} artwork"


UNSEEN = ["\u200b", "\ufeff", "\u00ad", "\u200d", "\u3164", "\u2028", "\u115f\ufe0f"]
AROUND = ["\ufeffcat", "cat\u200b", "c\u00adat", "\u200dcat", "cat\u200c ", "cat\u2029", "\x07cat"]


@pytest.mark.parametrize(
    "name",
    [
        "", " \t", "a\nb", "a\0", "\x1b[31m", "\ud800", "x" * 1001, 3, None, ["cat"],
        *UNSEEN, *AROUND,
    ],
)  # fmt: skip
def test_names_that_are_none(name: object) -> None:
    for wrong in ({"name": name, "anchor": ""}, {"name": "cat", "anchor": name or 3}):
        with pytest.raises(ValueError, match=r"Concept\.(name|anchor) must") as caught:
            Concept(kind="object", **wrong)  # type: ignore[arg-type]
        str(caught.value).encode()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["\u0646\u06cc\u0645\u200c\u0641\u0627\u0635\u0644\u0647", "\u2764\ufe0f", "é", "猫"]
)
def test_names_of_any_script(name: str) -> None:
    assert Concept(name, "object").name == name


@pytest.mark.parametrize(
    "change",
    [
        {"name": None}, {"templates": "a {name}"}, {"templates": [3]}, {"templates": None},
        {"kind": "animal"}, {"kind": []}, {"label": "x"}, {"anchor": None},
    ],
)  # fmt: skip
def test_records_of_concepts_that_are_none(change: dict[str, object]) -> None:
    record = Concept("cat", "object").as_json()
    assert Concept.from_json(record) == Concept("cat", "object")
    assert Concept.from_json({**record, "of later": 1}) == Concept("cat", "object")
    with pytest.raises(ValueError, match=r"Concept\.|a concept must be"):
        Concept.from_json({**record, **change})
    for key in change:
        with pytest.raises(ValueError, match=f"it has no {key}"):
            Concept.from_json({k: v for k, v in record.items() if k != key})


@pytest.mark.parametrize(
    "change",
    [
        {"objects": None}, {"objects": []}, {"objects": "cat"}, {"objects": ["cat", "CAT"]},
        {"objects": ["cat", 3]}, {"objects": ["cat", "\ud800"]}, {"styles": [[]]},
        {"styles": ["Photo", "cat"]}, {"plain_style": "Foto"}, {"plain_style": None},
        {"sentence": []}, {"sentence": "A cat."}, {"sentence": "A {object}"},
    ],
)  # fmt: skip
def test_lists_of_concepts_that_are_none(tmp_path: Path, change: dict[str, object]) -> None:
    record = {"objects": ["cat", "dog"], "styles": ["Photo", "Sketch"], "plain_style": "Photo",
              "sentence": "A {object} in {style} {"}  # fmt: skip
    file = tmp_path / "concepts.json"
    file.write_text(json.dumps(record))
    assert Catalogue.load(file).prompt("cat", "Sketch") == "A cat in Sketch {"
    file.write_text(json.dumps({**record, **change}))
    with pytest.raises(DataError, match=r"concepts\.json"):
        Catalogue.load(file)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"objects": "\xe9"}', b"[" * 99999])
def test_damaged_lists_of_concepts(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "concepts.json").write_bytes(data)
    with pytest.raises(DataError, match=r"concepts\.json"):
        Catalogue.load(tmp_path / "concepts.json")


def test_unsafe_paraphrases_are_of_no_person() -> None:
    found = paraphrases(Concept("nudity", "unsafe"), "nudity", None)
    assert len(found) >= 10
    assert not [text for text in found if "carpet" in text or "selfie" in text or "child" in text]
    assert "a close-up of an owl" in paraphrases(Concept("owl", "object"), "owl", None)
