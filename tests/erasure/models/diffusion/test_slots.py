"""Prompts with free slots: laid out as plain prompts are, and answering as plain prompts do."""

from pathlib import Path

import pytest
import torch

from erasure.errors import SettingError
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.slots import around, lay_out, place


def test_a_prompt_is_parted_between_words() -> None:
    assert place("a cat in the snow", "prefix") == ("", "a cat in the snow")
    assert place("a cat in the snow", "suffix") == ("a cat in the snow", "")
    assert place("a cat in the snow", "middle") == ("a cat", "in the snow")
    assert place("a cat in the snow", "replace", ["dog", "cat"]) == ("a", "in the snow")
    with pytest.raises(SettingError, match="needs prompts that name dog or bird; got 'a cat'"):
        place("a cat", "replace", ["dog", "bird"])
    assert around("a garbage truck in snow", "garbage truck") == ("a", "in snow")
    with pytest.raises(SettingError, match="'a cat' does not hold 'dog' as a word"):
        around("a cat", "dog")


@pytest.mark.parametrize("names", [["fish", "jellyfish"], ["jellyfish", "fish"]])
def test_a_name_is_whole_words_and_the_longest(names: list[str]) -> None:
    assert place("A jellyfish image", "replace", names) == ("A", "image")
    assert place("A Fish, not a jellyfish", "replace", ["fish"]) == ("A", ", not a jellyfish")
    assert place("a red cat", "replace", ["cat", "red cat"]) == ("a", "")
    for name in ("fish", "jelly", "ellyfis"):
        with pytest.raises(SettingError, match="needs prompts that name"):
            place("A jellyfish image", "replace", [name])
        with pytest.raises(ValueError, match="does not hold"):
            around("A jellyfish image", name)
    assert around("a picture by C++ (artist), 2020", "C++ (artist)") == ("a picture by", ", 2020")
    assert around("ein Bild von MÜLLER", "Müller") == ("ein Bild von", "")


@pytest.mark.parametrize(
    ("prompt", "name", "before"),
    [
        ("a painting in the style of painting", "painting", "a painting in the style of"),
        ("A Photo of a photo", "photo", "A Photo of a"),
        ("art: smart art, a party", "art", "art: smart"),
    ],
)
def test_of_two_places_of_a_name_the_last_counts(prompt: str, name: str, before: str) -> None:
    """The first is the template's own noun."""
    after = prompt[len(before) + 1 + len(name) :].strip()
    assert around(prompt, name) == place(prompt, "replace", [name]) == (before, after)


def test_slots_stand_between_the_parts_and_padding_follows() -> None:
    slotted = lay_out([([7, 8], [9]), ([], [5])], 2, ends=(1, 2), padding=0, length=8)
    assert slotted.ids.tolist() == [[1, 7, 8, 0, 0, 9, 2, 0], [1, 0, 0, 5, 2, 0, 0, 0]]
    assert slotted.places.tolist() == [[3, 4], [1, 2]]
    assert slotted.filled(torch.tensor([[3, 4], [6, 7]]))[1].tolist() == [1, 6, 7, 5, 2, 0, 0, 0]


@pytest.mark.parametrize("folder", ["sd1", "sd2"])
def test_a_word_in_its_own_slot_is_the_plain_prompt(
    folder: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(folder)
    model = load_model(str(path))
    prompt = "A cat image in Winter style."
    word = model.open_slots([("", "cat")], 0).ids[0, 1 : 1 + model.token_count("cat")]
    slotted = model.open_slots([around(prompt, "cat")], len(word))
    vectors = model.token_table[word][None].detach().requires_grad_()
    hidden = model.encode_slots(slotted, vectors)
    assert torch.allclose(hidden, model.encode([prompt]), atol=1e-6)
    hidden.sum().backward()
    assert vectors.grad is not None
    assert float(vectors.grad.abs().sum()) > 0
    # the hook is gone again
    assert torch.equal(model.encode([prompt]), load_model(str(path)).encode([prompt]))


def test_a_prompt_without_room_is_refused(sd1: Path) -> None:
    model = load_model(str(sd1))
    with pytest.raises(SettingError, match=r"30 tokens more .* do not fit .* 32"):
        model.open_slots([("", "a cat image")], 30)
