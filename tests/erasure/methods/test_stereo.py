"""STEREO: both stages' losses in float64, the words it learns, and where they stand."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from erasure.config import Value
from erasure.erasing import erase
from erasure.errors import SettingError
from erasure.files.storage import read_lines
from erasure.methods.diffusion import stereo
from erasure.methods.shared import learned_words
from erasure.methods.shared.learned_words import Named, embedding_of, learn_words
from erasure.methods.shared.training_data import Pictures
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.training.run import Run
from erasure_datasets.concept import Concept

OF_ROUNDS: dict[str, Value] = {"round_steps": 2, "word_steps": 2, "round_rate": 1e-2}
OF_THE_LAST: dict[str, Value] = {
    "steps": 2, "batch_size": 3, "paths": 2, "sampling_steps": 3, "learning_rate": 1e-2,
}  # fmt: skip
TINY: dict[str, Value] = {"rounds": 1, **OF_ROUNDS, **OF_THE_LAST}


def in_float64(folder: Path) -> StableDiffusion:
    model = load_model(str(folder), dtype=torch.float64)
    model.alphas_cumprod = model.alphas_cumprod.double()
    return model


def test_both_stages_are_the_papers(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stage's first step, where the model is the original one, with a word of two vectors."""
    drawn, states, found = [], [], []
    real, learned = stereo.points, stereo.learn_words

    def noted(*given: object) -> object:
        drawn.append(real(*given))
        states.append(given[-1].generator.get_state())  # type: ignore[attr-defined]
        return drawn[-1]

    monkeypatch.setattr(stereo, "points", noted)
    monkeypatch.setattr(
        stereo, "learn_words", lambda *a, **k: found.append(learned(*a, **k)) or found[-1]
    )
    settings = {**TINY, "tokens": 2, "round_push": 1.5, "push": 2.5, "pull": 0.7}
    erase(str(listed), "stereo", ["cat"], out=tmp_path / "run", anchor="dog", **settings)
    log = {line["stage"]: line for line in reversed(read_lines(tmp_path / "run" / "log.jsonl"))}
    model, word = in_float64(listed), found[0][0].double()

    def ask(at: object, texts: list[str], vectors: Tensor | None = None) -> Tensor:
        condition = model.encode(texts)
        if vectors is not None:
            parts = [(text[: text.index("cat")], text[text.index("cat") + 3 :]) for text in texts]
            slots = model.open_slots(parts, len(vectors))
            condition = model.encode_slots(slots, vectors.expand(len(texts), -1, -1))
        return model.predict(at.z_t.double(), at.t, condition)  # type: ignore[attr-defined]

    first, last = drawn[0], drawn[2]  # a round takes two steps
    named, none = ask(first, list(first.prompts[0])), ask(first, [""] * 3)
    want = (named - (none - 1.5 * (named - none))).square().mean().item()
    assert log["round 0"]["erase"] == pytest.approx(want, rel=1e-3)

    cats, none = list(last.prompts[0]), ask(last, [""] * 3)
    both = torch.stack([ask(last, cats), ask(last, cats, word)])
    dogs = ask(last, [text.replace("cat", "dog") for text in cats])
    target = none + 0.7 * (dogs - none) - 2.5 * (both.mean(0) - none)
    generator = torch.Generator()
    generator.set_state(states[2])
    said = both[torch.randint(2, (3,), generator=generator), range(3)]
    assert log["fit"]["erase"] == pytest.approx((said - target).square().mean().item(), rel=1e-3)
    assert set(log) == {"round 0", "word 0", "fit"}


def test_words_in_place_of_names(listed: Path) -> None:
    """A name's own embeddings are the prompt itself; each concept has its own word."""
    model = load_model(str(listed))
    concepts = [Concept(name, "object", ("A {name} image.",)) for name in ("cat", "dog")]
    named, prompts = Named.of(concepts), ["A dog image.", "A cat image."]
    assert model.token_count("cat") == model.token_count("dog") == 1
    words = torch.stack([embedding_of(model, name) for name in ("cat", "dog")])
    with torch.no_grad():
        assert torch.equal(named.encode(model, prompts, words), model.encode(prompts))
        other = named.encode(model, prompts, words.flip(0))
    assert torch.equal(other, model.encode(["A cat image.", "A dog image."]))


def test_a_word_stands_where_the_name_does_and_not_the_templates_noun() -> None:
    named = Named.of([Concept("image", "style", ("An image in {name} style.",))])
    assert named.places == {"An image in image style.": (0, ("An image in", "style."))}


def test_a_word_goes_down_the_noise_loss(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AdamW's first step is against the sign of a gradient computed in float64."""
    model, exact = load_model(str(listed)), in_float64(listed)
    named = Named.of([Concept("cat", "object", ("A {name} image.",))])
    start, real, drawn = embedding_of(model, "dog")[None].repeat(1, 2, 1), learned_words.draw, []
    monkeypatch.setattr(
        learned_words, "draw", lambda *given: drawn.append(real(*given)) or drawn[-1]
    )
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = learn_words(
        model, Pictures(latents, ["A cat image."] * 4, [""] * 4), named, start, steps=1, rate=0.1,
        batch_size=2, stage="word", run=Run(tmp_path),
    )  # fmt: skip
    z0, prompts, _, t, noise = drawn[0]
    vectors = start.double().requires_grad_()
    condition = named.encode(exact, prompts, vectors)
    said = exact.predict(exact.add_noise(z0.double(), noise.double(), t), t, condition)
    (gradient,) = torch.autograd.grad((said - noise.double()).square().mean(), [vectors])
    moved = found - start * (1 - 0.1 * 0.01)  # without the decay of weights
    want = -0.1 * gradient / (gradient.abs() + 1e-8)
    assert torch.cosine_similarity(moved.double().flatten(), want.flatten(), dim=0) > 0.99
    assert torch.equal(start, embedding_of(model, "dog")[None].repeat(1, 2, 1))


def test_rounds_and_what_is_kept(listed: Path, tmp_path: Path) -> None:
    """None and two, and the edit of one run is not the other's."""
    done = [
        erase(
            str(listed), "stereo", ["cat"], out=tmp_path / str(rounds), rounds=rounds,
            retain_weight=0.5, **OF_THE_LAST, **more,
        )
        for rounds, more in ((0, {}), (2, OF_ROUNDS))
    ]  # fmt: skip
    stages = [
        list(dict.fromkeys(line["stage"] for line in read_lines(one.folder / "log.jsonl")))
        for one in done
    ]
    assert stages == [["fit"], ["round 0", "word 0", "round 1", "word 1", "fit"]]
    assert all("retain" in read_lines(one.folder / "log.jsonl")[-1] for one in done)
    one, other = (edit.tensors for edit in (done[0].edit, done[1].edit))
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"retain_prompts": "kept.csv"},
            "Stereo.retain_prompts has no effect without retain_weight",
        ),
        ({"tokens": 90}, "do not fit"),
        ({"init": "  "}, "init must be a word that .* reads; got '  '"),
        ({"rounds": -1}, "Stereo.rounds must be at least 0"),
    ],
)
def test_what_it_cannot_use_is_refused(listed: Path, tmp_path: Path, more: dict, said: str) -> None:
    with pytest.raises(SettingError, match=said) as raised:
        erase(str(listed), "stereo", ["cat"], out=tmp_path / "run", **{**TINY, **more})
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()
