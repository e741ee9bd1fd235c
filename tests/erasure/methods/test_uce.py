"""UCE against a second solution: least squares by torch.linalg.lstsq, not the normal equations."""

from pathlib import Path

import pytest
import torch

from erasure.erasing import erase
from erasure.methods.diffusion.uce import last_position
from erasure.methods.shared.aligned_prompts import aligned_prompts
from erasure.models.diffusion.load import load_model
from erasure_datasets.concept import Concept


def test_last_position_is_the_concepts_last_token(sd1: Path) -> None:
    model = load_model(str(sd1))
    ids = model.tokenize(["an image of a jellyfish", "Van Gogh"])
    words = model.pipeline.tokenizer.convert_ids_to_tokens(ids[0].tolist())
    assert words[
        last_position(model.token_count, "an image of a jellyfish", "jellyfish")
    ].startswith("jellyfish")
    assert last_position(
        model.token_count, "A cat image in Van Gogh style.", "Van Gogh"
    ) > last_position(model.token_count, "A cat image", "cat")
    assert (
        ids[0, last_position(model.token_count, "an image of a jellyfish", "") + 1]
        == model.pipeline.tokenizer.eos_token_id
    )


def test_a_name_is_sought_as_a_word(sd1: Path) -> None:
    model = load_model(str(sd1))
    for prompt, name, head in (
        ("an image in art style, by a smart person", "art", "an image in art"),
        ("an image of a sty in its own style", "sty", "an image of a sty"),
        ("a cat, then a cat", "cat", "a cat, then a cat"),
    ):
        assert last_position(model.token_count, prompt, name) == model.token_count(head), prompt


def test_prompts_of_two_concepts_are_wanted_without_both() -> None:
    """Whichever of the two a row is for; a concept of no anchor leaves nothing to draw."""
    cat = Concept("cat", "object", ("A {name} in Sketch style", "{name}"), anchor="dog")
    sketch = Concept("Sketch", "style", ("A cat in {name} style",), anchor="Photo")
    both = "A cat in Sketch style"
    assert aligned_prompts([cat, sketch]) == [
        (both, "cat", "A dog in Photo style", "dog"),
        ("cat", "cat", "dog", "dog"),
        (both, "Sketch", "A dog in Photo style", "Photo"),
    ]
    nothing = Concept("cat", "object", ("{name}",))
    assert aligned_prompts([sketch, nothing])[0] == (both, "Sketch", "", "")


@pytest.mark.parametrize("positions", ["last", "onward"])
def test_weights_minimise_the_papers_objective(
    listed: Path, tmp_path: Path, positions: str
) -> None:
    stay, erase_weight, preserve_weight = 0.7, 2.0, 0.3
    result = erase(
        str(listed), "uce", ["cat"], out=tmp_path / "run", stay=stay, erase_weight=erase_weight,
        preserve_weight=preserve_weight, positions=positions,
    )  # fmt: skip
    model = load_model(str(listed))
    sources, targets, kept = [], [], []
    for style in ("Photo", "Sketch"):
        prompt, anchor = f"A cat image in {style} style.", f"A dog image in {style} style."
        start, other = (
            last_position(model.token_count, prompt, "cat"),
            last_position(model.token_count, anchor, "dog"),
        )
        hidden = model.encode([prompt, anchor]).double()
        length = 1 if positions == "last" else 32 - max(start, other)
        sources.append(hidden[0, start : start + length])
        targets.append(hidden[1, other : other + length])
        for name in ("dog", "tree"):
            text = f"A {name} image in {style} style."
            hidden = model.encode([text]).double()[0]
            kept.append(
                hidden[last_position(model.token_count, text, "")][None]
                if positions == "last"
                else hidden
            )
    c, c_star, c_kept = torch.cat(sources), torch.cat(targets), torch.cat(kept)
    identity = torch.eye(32, dtype=torch.float64)
    left = torch.cat([stay**0.5 * identity, erase_weight**0.5 * c, preserve_weight**0.5 * c_kept])
    for name, got in result.edit.tensors.items():
        old = model.parameters()[name].double()
        right = torch.cat(
            [
                stay**0.5 * old.T,
                erase_weight**0.5 * c_star @ old.T,
                preserve_weight**0.5 * c_kept @ old.T,
            ]
        )
        want = torch.linalg.lstsq(left, right).solution.T
        assert torch.allclose(got.double(), want, atol=1e-4), name  # float32 storage


def test_the_concept_now_reads_as_its_anchor(listed: Path, tmp_path: Path) -> None:
    """With little to hold it back, keys of 'cat' become those of 'dog'."""
    result = erase(
        str(listed), "uce", ["cat"], out=tmp_path / "run", stay=1e-3, preserve_weight=0.0
    )
    model = load_model(str(listed))
    hidden = model.encode(["A cat image in Photo style.", "A dog image in Photo style."]).double()
    place = last_position(model.token_count, "A cat", "cat")
    for name, new in result.edit.tensors.items():
        old = model.parameters()[name].double()
        wanted, before, after = (
            old @ hidden[1, place],
            old @ hidden[0, place],
            new.double() @ hidden[0, place],
        )
        assert (after - wanted).norm() < 0.05 * (before - wanted).norm(), name


@pytest.mark.parametrize("select", ["text.in", "pooled.in"])
def test_both_maps_of_sd3_read_the_anchor(sd3: Path, tmp_path: Path, select: str) -> None:
    """What the transformer is told of 'cat', by token and as a whole, becomes that of 'dog'."""
    weak = {"stay": 1e-4, "preserve_weight": 0.0, "positions": "onward"}
    result = erase(str(sd3), "uce", ["cat"], out=tmp_path / "run", kind="object", anchor="dog",
                   **weak)  # fmt: skip
    model = load_model(str(sd3))
    concept = result.edit.concepts[0]
    asked = [concept.prompts()[0], concept.anchor_prompts()[0]]
    condition = model.encode(asked)
    place = last_position(model.token_count, asked[0], "cat")
    vectors = (
        model.pooled(condition) if select == "pooled.in" else model.states(condition)[:, place]
    )
    (name,) = [name for name in model.weights(select) if name.endswith(".weight")]
    old, new = model.parameters()[name], result.edit.tensors[name]
    before, wanted = (vectors @ old.T).unbind()
    assert (new @ vectors[0] - wanted).norm() < 0.1 * (before - wanted).norm()


def test_t5s_tokens_are_vectors_too(sd3: Path, sd3_with_t5: Path, tmp_path: Path) -> None:
    model = load_model(str(sd3_with_t5))
    own = model.text_parts()[1]
    ids = model.pipeline.tokenizer("an image of a cat", add_special_tokens=False).input_ids
    assert own.rows == slice(32, 32 + 3)
    assert own.count("an image") == min(len(ids), 2) - 1
    result = erase(
        str(sd3_with_t5), "uce", ["cat"], out=tmp_path / "run", kind="object", anchor="dog"
    )
    plain = erase(str(sd3), "uce", ["cat"], out=tmp_path / "plain", kind="object", anchor="dog")
    name = "transformer.context_embedder.weight"
    assert not torch.equal(result.edit.tensors[name], plain.edit.tensors[name])
