"""Adapt-then-Unlearn: its losses in float64, what it reads, and that no name enters."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from contract import known_again
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from erasure.edit import Edit
from erasure.erasing import erase
from erasure.errors import SettingError
from erasure.files.storage import read_lines
from erasure.methods.diffusion import adapt_unlearn
from erasure.methods.shared import shown_pictures
from erasure.methods.shared.shown_pictures import (
    gains,
    known_by,
    read_shown,
    told_apart,
    with_anchors,
)
from erasure.methods.shared.state_search import StateSearch
from erasure.methods.shared.training_data import Pictures
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.training.run import Run
from erasure_datasets.errors import DataWarning
from evaluation.attacking.attacking import attack
from evaluation.evaluating import evaluate

TINY = {
    "word_steps": 2, "looks": 1, "steps": 2, "batch_size": 2,
    "retain_batch_size": 2, "retain_images": 4, "sampling_steps": 2, "learning_rate": 1e-2,
}  # fmt: skip
COLOURS = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A user's folder: three formats and sizes, and a note."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for colour, name, size in zip(
        COLOURS, ("a.png", "b.jpg", "c.webp"), ((16, 16), (40, 24), (17, 90)), strict=True
    ):
        Image.new("RGB", size, colour).save(folder / name)
    return folder


@pytest.fixture
def half_known() -> Iterator[None]:
    with known_again():
        yield


@pytest.mark.usefixtures("half_known")
@pytest.mark.parametrize("towards", ["kept", "away", "weights"])
def test_the_terms_are_the_formulas(
    listed: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, towards: str
) -> None:
    """Of the second step away, once more in float64."""
    model, real, seen, words = load_model(str(listed)), adapt_unlearn.draw, [], []
    chosen, distance, adapted = StateSearch.conditions, adapt_unlearn.squared_distance, []

    def state() -> dict[str, Tensor]:
        return {name: w.detach().double().clone() for name, w in model.parameters().items()}

    def noted(*given: object) -> tuple:
        seen.append((real(*given), state()))
        return seen[-1][0]

    def noted_words(search: StateSearch, numbers: Tensor) -> Tensor:
        words.append(chosen(search, numbers).clone())
        return words[-1]

    def noted_distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> Tensor:
        adapted.append(({n: w.detach().double() for n, w in other.items()}, state()))
        return distance(one, other)

    monkeypatch.setattr(adapt_unlearn, "draw", noted)
    monkeypatch.setattr(StateSearch, "conditions", noted_words)
    monkeypatch.setattr(adapt_unlearn, "squared_distance", noted_distance)
    where = {"target": towards} | ({"push": 0.7} if towards == "away" else {})
    if towards == "weights":
        where = {"space": "weights", "adapt_steps": 1, "repulsion": 2.0, "sharpness": 0.5}
    erase(
        model, "adapt-unlearn", out=tmp_path / "run", images=str(pictures),
        empty_weight=0.4, word_weight=0.3, **where, **TINY,
    )  # fmt: skip
    lines = read_lines(tmp_path / "run" / "log.jsonl")
    of = {stage: [one for one in lines if one["stage"] == stage] for stage in ("adapt", "fit")}
    if towards == "weights":
        (far, start), _, (same, now) = adapted
        unit = sum(float((start[n] - w).square().sum()) for n, w in far.items())
        left = sum(float((now[n] - w).square().sum()) for n, w in same.items())
        want = 2.0 * math.exp(-0.5 * left / unit)
        assert of["fit"][1]["repel"] == pytest.approx(want, rel=1e-3)
    # each step draws what to forget, then what to keep; of weights, to adapt alone
    (drawn, weights), got, asked = seen[-2], of["fit"][1], words[-1]
    if towards == "weights":
        (drawn, weights), got = seen[0], of["adapt"][0]
    edited, other = (load_model(str(listed), dtype=torch.float64) for _ in range(2))
    for name, parameter in edited.parameters().items():
        parameter.data = weights[name]
    z0, prompts, anchors, t, noise = drawn
    abar = other.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
    z_t = abar.sqrt() * z0.double() + (1 - abar).sqrt() * noise.double()

    def ask(who: StableDiffusion, condition: Tensor | list[str]) -> Tensor:
        told = who.encode(condition) if isinstance(condition, list) else condition.double()
        with torch.no_grad():
            return who.predict(z_t, t, told.expand(len(t), -1, -1))

    none = ask(other, ["", ""])
    if towards == "away":
        target = none - 0.7 * (ask(other, words[0]) - none)
    else:
        target = ask(edited, list(anchors)) if towards == "kept" else noise.double()
    for name, weight, condition in (
        ("erase", 1.0, list(prompts)), ("erase_empty", 0.4, ["", ""]), ("erase_word", 0.3, asked),
    ):  # fmt: skip
        want = weight * float((ask(edited, condition) - target).square().mean())
        assert got[name] == pytest.approx(want, rel=1e-3, abs=2e-6), name


@pytest.mark.usefixtures("half_known")
def test_a_name_is_for_the_records_alone(listed: Path, pictures: Path, tmp_path: Path) -> None:
    """The same bits with a name, and with another; only the record tells them apart."""
    asked = {"images": str(pictures), **TINY}
    found = [
        erase(str(listed), "adapt-unlearn", names, out=tmp_path / str(i), **asked).edit
        for i, names in enumerate(([], ["cat"], ["Sketch"]))
    ]
    assert [edit.concepts[0].name for edit in found] == ["what some pictures show", "cat", "Sketch"]
    assert all(edit.concepts[0].anchor == "" for edit in found)
    for edit in found[1:]:
        assert edit.tensors.keys() == found[0].tensors.keys()
        assert all(torch.equal(edit.tensors[n], tensor) for n, tensor in found[0].tensors.items())


@pytest.mark.usefixtures("half_known")
def test_what_has_no_name_is_not_judged_attacked_or_stacked(
    listed: Path, pictures: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    erase(str(listed), "adapt-unlearn", out=run, images=str(pictures), **TINY)
    assert Edit.load(run).concepts[0].kind == "pictures"
    for ask in (
        lambda: evaluate(run), lambda: attack(run, "paraphrase"),
        lambda: erase(run, "uce", ["cat"], out=tmp_path / "more"),
    ):  # fmt: skip
        with pytest.raises(SettingError, match="nobody said what that is called"):
            ask()


def test_a_gain_is_what_a_word_tells_of_a_picture(listed: Path, tmp_path: Path) -> None:
    """Once more in float64, by the noises that all pictures share."""
    model, twin = (load_model(str(listed), dtype=kind) for kind in (torch.float32, torch.float64))
    generator, run = torch.Generator().manual_seed(0), Run(tmp_path)
    latents, word = torch.randn(3, 4, 8, 8, generator=generator), model.encode(["a cat"])
    found = gains(model, latents, word, run, looks=2)
    noises = torch.randn((2, 4, 8, 8), generator=run.generator_for("looks")).double()
    want = torch.zeros(3, dtype=torch.float64)
    for t, noise in zip(model.descent(4)[0][:2], noises, strict=True):
        abar = twin.alphas_cumprod.double()[t]
        z_t = abar.sqrt() * latents.double() + (1 - abar).sqrt() * noise
        for sign, text in ((1, ""), (-1, "a cat")):
            with torch.no_grad():
                said = twin.predict(z_t, t.expand(3), twin.encode([text] * 3))
            want += sign * (said - noise).square().mean((1, 2, 3)) / 2
    assert torch.allclose(found.double(), want, rtol=1e-3, atol=1e-6)
    assert want.abs().max() > 1e-5


def test_no_prompt_that_fits_is_told(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = torch.tensor([0.1, 0.1, -0.5, -0.6])
    monkeypatch.setattr(shown_pictures, "gains", lambda *_, **__: told)
    monkeypatch.setattr(shown_pictures, "known_by", lambda *_, **__: ["", ""])
    every, word = Pictures(torch.zeros(2, 4, 8, 8), ["a", "b"], ["", ""]), torch.zeros(1, 77, 32)
    with pytest.warns(DataWarning, match="none of 2 prompts draws what the pictures show"):
        forget, keep, far = told_apart(
            load_model(str(listed)), torch.zeros(2, 4, 8, 8), every, word, Run(tmp_path), looks=1
        )
    assert (forget.prompts, keep.prompts, far) == (["", ""], ["a", "b"], ["b"])


def errors_of(
    twin: StableDiffusion, latents: Tensor, texts: list[str], run: Run
) -> Float[Tensor, "prompts pictures"]:
    """In float64, what told_apart sees in one look."""
    (time, *_), count = twin.descent(2)[0], len(latents)
    noise = torch.randn((1, 4, 8, 8), generator=run.generator_for("looks")).double()
    abar = twin.alphas_cumprod.double()[time]
    z_t = abar.sqrt() * latents.double() + (1 - abar).sqrt() * noise
    with torch.no_grad():
        said = [twin.predict(z_t, time.expand(count), twin.encode([one] * count)) for one in texts]
    return torch.stack([(one - noise).square().mean((1, 2, 3)) for one in said])


def test_a_picture_is_known_by_the_prompt_that_tells_most(listed: Path, tmp_path: Path) -> None:
    """Once more in float64, by one look; where the learned word tells more, by none."""
    model, twin = (load_model(str(listed), dtype=kind) for kind in (torch.float32, torch.float64))
    texts, run = ["a cat", "a dog in the snow", "a small red house", "Sketch"], Run(tmp_path)
    latents = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    word = model.encode(["a bird at night"])
    errors = errors_of(twin, latents, ["a bird at night", *texts], run)
    names = ["", *texts]
    found = known_by(model, latents, texts, word, run, looks=1)
    assert found == [names[row] for row in errors.argmin(0).tolist()]
    assert len({*found}) > 1
    assert known_by(model, latents, [], model.encode([""]), run, looks=1) == [""] * 6


def test_an_anchor_is_the_kept_prompt_that_is_nearest(listed: Path, tmp_path: Path) -> None:
    """One for all pictures of a prompt, by the first of them; each its own where there is none."""
    model, twin = (load_model(str(listed), dtype=kind) for kind in (torch.float32, torch.float64))
    run, texts = Run(tmp_path), ["a cat", "a dog in the snow", "a small red house", "Sketch"]
    latents = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    nearest = [texts[row] for row in errors_of(twin, latents, texts, run).argmin(0).tolist()]
    for prompts, firsts in ((list("xyxyxy"), [0, 1, 0, 1, 0, 1]), ([""] * 6, list(range(6)))):
        found = with_anchors(
            model, Pictures(latents, prompts, [""] * 6), [*texts, *texts], run, looks=1
        )
        assert found.anchors == [nearest[first] for first in firsts]
        assert found.prompts == prompts
    assert len({*nearest}) > 1


def test_words_are_the_prompts_that_the_word_fits(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the mean over a prompt's pictures; what is in doubt is neither forgotten nor kept.

    A prompt by which a given picture is known goes as well.
    """
    model, shown, texts = load_model(str(listed)), torch.zeros(3, 4, 8, 8), list("abcabc")
    numbers = torch.arange(6.0).view(6, 1, 1, 1).repeat(1, 4, 8, 8)
    every, run, asked = Pictures(numbers, texts, [""] * 6), Run(tmp_path), []

    def told(*values: float, names: str = "") -> tuple[Pictures, Pictures, list[str]]:
        def known(_model: object, _latents: object, among: list[str], *_: object, **__: object):
            asked.append(among)
            return [*names] or [""] * 3

        monkeypatch.setattr(shown_pictures, "gains", lambda *_, **__: torch.tensor(values))
        monkeypatch.setattr(shown_pictures, "known_by", known)
        return told_apart(model, shown, every, torch.zeros(1, 77, 32), run, looks=1)

    doubtful = 0.0, 0.1, 0.2, 0.3, 0.1, -0.3, 0.1, -0.5, 0.5
    forget, keep, _ = told(*doubtful)
    assert forget.prompts == ["a"] * 5
    assert forget.latents[3:, 0, 0, 0].tolist() == [0, 3]
    assert (keep.prompts, keep.latents[:, 0, 0, 0].tolist()) == (["b", "b"], [1, 4])
    forget, keep, far = told(*doubtful, names="cac")
    assert asked == [["a", "c"]] * 2
    assert forget.prompts == [*"cacacac"]
    assert (forget.latents[3:, 0, 0, 0].tolist(), keep.prompts) == ([0, 2, 3, 5], ["b", "b"])
    assert far == ["b"]
    for values, message in (([-1.0] * 9, "what .* can draw"), ([1.0] * 9, "something to keep")):
        with pytest.raises(SettingError, match=message):
            told(*values)


def test_pictures_are_read_as_they_are_seen(listed: Path, pictures: Path, tmp_path: Path) -> None:
    """Each cut to the model's square; one that EXIF turns, like the same turned already."""
    model = load_model(str(listed))
    assert read_shown(str(pictures), model).shape == (3, 4, 8, 8)
    upright, turned = tmp_path / "upright", tmp_path / "turned"
    for place in (upright, turned):
        shutil.copytree(pictures, place)
    half = Image.new("RGB", (40, 40), "white")
    half.paste((0, 0, 0), (0, 0, 40, 20))
    half.save(upright / "d.png")
    exif = Image.Exif()
    exif[0x0112] = 3
    half.rotate(180).save(turned / "d.png", exif=exif)
    assert torch.equal(read_shown(str(upright), model), read_shown(str(turned), model))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda place: shutil.rmtree(place), "must be a folder of pictures"),
        (lambda place: [file.unlink() for file in place.iterdir()], "has none"),
        (lambda place: [(place / name).unlink() for name in ("b.jpg", "c.webp")], "has 1"),
        (lambda place: (place / "b.jpg").write_bytes(b"no picture"), r"b\.jpg cannot be read"),
    ],
)
def test_bad_folders_in_one_line(
    listed: Path, pictures: Path, tmp_path: Path, spoil: object, message: str
) -> None:
    spoil(pictures)  # type: ignore[operator]
    out = tmp_path / "run"
    with pytest.raises(SettingError, match=message) as raised:
        erase(str(listed), "adapt-unlearn", out=out, images=str(pictures), **TINY)
    assert "\n" not in str(raised.value)
    assert not out.exists()


def test_alike_pictures_are_no_more_than_one(listed: Path, tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (16, 16), "red").save(tmp_path / f"{number}.png")
    with pytest.raises(SettingError, match="has all alike"):
        read_shown(str(tmp_path), load_model(str(listed)))
