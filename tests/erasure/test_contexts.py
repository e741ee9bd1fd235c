"""Erasing by some of a concept's prompts alone, and judging the others apart."""

import json
from pathlib import Path

import pytest

from erasure.concepts import find_concepts
from erasure.erasing import erase
from erasure.errors import SettingError
from erasure.methods.shared.paths import push_rows
from erasure.methods.shared.training_data import Plan, gather
from erasure.models.diffusion.load import load_model
from erasure.training.run import Run


def test_a_concept_is_asked_for_beside_the_contexts_alone(listed: Path, tmp_path: Path) -> None:
    model = load_model(str(listed))
    style, cat = find_concepts(model, ["Sketch", "cat"], contexts="tree, photo, Dog")
    assert style.prompts() == ["A dog image in Sketch style.", "A tree image in Sketch style."]
    assert cat.prompts() == ["A cat image in Photo style."]
    assert [row[0] for row in push_rows([cat], "prompt")] == cat.prompts()
    forget, kept = gather(
        model, [style], Plan("generated", 4, 12, "", 1, 1.0), Run(tmp_path / "run")
    )
    assert set(forget.prompts) == set(style.prompts())
    assert not any("Sketch" in prompt for prompt in kept.prompts)  # the held-out ones neither


@pytest.mark.parametrize(
    ("name", "contexts", "message"),
    [
        ("cat", "Photos", "contexts: 'Photos' is not in the model's list: Photo"),
        ("cat", "dog", "contexts: none of dog goes with cat. Known: Photo, Sketch"),
        ("Sketch", "Photo", "contexts: none of Photo goes with Sketch. Known: cat, dog, tree"),
        ("cat", "", "contexts: '' is not in the model's list"),
    ],
)
def test_strange_contexts_are_refused(name: str, contexts: str, message: str, listed: Path) -> None:
    with pytest.raises(SettingError, match=message):
        find_concepts(load_model(str(listed)), [name], contexts=contexts)


def test_free_text_has_no_contexts(sd1: Path) -> None:
    with pytest.raises(SettingError, match="contexts must be names of a model's own list"):
        find_concepts(load_model(str(sd1)), ["cat"], kind="object", contexts="Photo")


def test_a_run_keeps_by_what_it_was_erased(listed: Path, tmp_path: Path) -> None:
    result = erase(str(listed), "uce", ["cat"], out=tmp_path / "run", contexts="Sketch")
    assert result.edit.concepts[0].prompts() == ["A cat image in Sketch style."]
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["concepts"][0]["templates"] == ["A {name} image in Sketch style."]
