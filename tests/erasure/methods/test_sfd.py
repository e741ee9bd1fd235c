"""SFD: its losses in value, which prompts are dropped where, and what it refuses."""

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from contract import TINY
from torch import Tensor

from erasure.erasing import erase
from erasure.errors import DivergedError, SettingError
from erasure.exports.writing.saving import save_model
from erasure.files.storage import read_lines
from erasure.methods.diffusion.sfd import SFD
from erasure.methods.shared import distilling, score_identity
from erasure.methods.shared.score_identity import Rules
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.one_step import OneStep
from erasure.training.run import Run

CAT, DOG = "A cat image in {} style.", "A dog image in {} style."


@pytest.fixture(scope="module")
def generator(listed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A one-step generator that is not its teacher."""
    model = load_model(str(listed))
    made = OneStep.on(model, deepcopy(model.pipeline.unet), name="generator")
    with torch.no_grad():
        for number, weight in enumerate(made.weights("xattn").values()):
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
            weight.add_(0.1 * noise)
    folder = tmp_path_factory.mktemp("sfd") / "generator"
    save_model(made, folder)
    return folder


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the two losses of each step are computed from."""
    found = SimpleNamespace(fake=[], identity=[], calls=[], asked=[])
    fake_loss, generator_loss = score_identity.fake_loss, score_identity.generator_loss
    one_call, guided = OneStep.one_call, score_identity.guided

    def noted_fake(predicted: Tensor, noise: Tensor) -> Tensor:
        found.fake.append((predicted.detach(), noise))
        return fake_loss(predicted, noise)

    def noted_identity(*given: object) -> Tensor:
        found.identity.append(given)
        return generator_loss(*given)

    def noted_call(self: OneStep, z: Tensor, condition: Tensor) -> Tensor:
        found.calls.append((z, condition, one_call(self, z, condition)))
        return found.calls[-1][2]

    def noted_guided(*given: object) -> Tensor:
        found.asked.append(given)
        return guided(*given)

    monkeypatch.setattr(score_identity, "fake_loss", noted_fake)
    monkeypatch.setattr(score_identity, "generator_loss", noted_identity)
    monkeypatch.setattr(score_identity, "guided", noted_guided)
    monkeypatch.setattr(OneStep, "one_call", noted_call)
    return found


def one_step(listed: Path, generator: Path, out: Path, **settings: object) -> dict[str, float]:
    """The log of a single step."""
    erase(
        str(listed), "sfd", ["cat"], out=out, steps=1, batch_size=2, generator=str(generator),
        learning_rate=1e-3, fake_learning_rate=1e-3, **settings,
    )  # fmt: skip
    return read_lines(out / "log.jsonl")[0]


@pytest.mark.parametrize("override", ["anchor", "negative", "both"])
def test_the_losses_are_sums_of_each_halfs_mean(
    listed: Path, generator: Path, tmp_path: Path, seen: SimpleNamespace, override: str
) -> None:
    got = one_step(
        listed, generator, tmp_path / "run", override=override, forget_weight=2.0,
        retain_weight=0.5, fake_forget_weight=3.0, fake_retain_weight=0.7, dropout=0.0,
        guidance=3.0, fake_guidance=1.5,
    )  # fmt: skip
    predicted, noise = (x.double() for x in seen.fake[0])
    squares = [float(((predicted[i] - noise[i]) ** 2).sum()) for i in range(4)]
    want = 3.0 * (squares[0] + squares[2]) / 2 + 0.7 * (squares[1] + squares[3]) / 2
    assert got["fake"] == pytest.approx(want, rel=1e-4)

    teacher, fake, drawn, noise, t, asked, rules = seen.identity[0]
    rows = score_identity.generator_loss(teacher, fake, drawn, noise, t, asked, rules)
    values = rows.detach().double().tolist()
    want = 2.0 * (values[0] + values[2]) / 2 + 0.5 * (values[1] + values[3]) / 2
    assert got["identity"] == pytest.approx(want, rel=1e-2, abs=1e-5 * max(map(abs, values)))


@pytest.mark.parametrize("override", ["anchor", "negative", "both"])
def test_whom_is_asked_what(
    listed: Path, generator: Path, tmp_path: Path, seen: SimpleNamespace, override: str
) -> None:
    one_step(listed, generator, tmp_path / "run", override=override, dropout=0.0)
    asked, model = seen.identity[0][5], load_model(str(listed))
    empty = model.encode([""])
    for row in range(4):
        is_forgotten = row % 2 == 0
        style = min(
            ("Photo", "Sketch"),
            key=lambda s: float((model.encode([CAT.format(s)])[0] - asked.drawn[row]).norm()),
        )
        cat, dog = (model.encode([text.format(style)])[0] for text in (CAT, DOG))
        if is_forgotten:
            assert torch.allclose(asked.drawn[row], cat, atol=1e-5)
            stand_in = cat if override == "negative" else dog
            assert torch.allclose(asked.teacher[row], stand_in, atol=1e-5)
        else:
            assert torch.equal(asked.teacher[row], asked.drawn[row])
        name = model.encode(["cat"] if is_forgotten and override != "anchor" else [""])[0]
        assert torch.allclose(asked.negative[row], name, atol=1e-5)
    assert torch.equal(asked.fake, asked.drawn)
    assert torch.allclose(asked.empty, empty.expand_as(asked.empty), atol=1e-5)


def test_a_dropped_prompt_is_dropped_before_drawing(
    listed: Path, generator: Path, tmp_path: Path, seen: SimpleNamespace
) -> None:
    """The fake score learns what is drawn without it; the generator's own loss keeps it."""
    one_step(listed, generator, tmp_path / "run", dropout=1.0)
    (z, prompted, drawn), (again, without, plain), *_ = seen.calls
    assert torch.equal(again, z)
    model, z_t, t, known, empty, _ = seen.asked[0]
    assert torch.equal(without, empty)
    assert torch.equal(known, empty)
    assert not torch.allclose(prompted, without)
    _, noise = seen.fake[0]
    assert torch.allclose(z_t, model.add_noise(plain, noise, t), atol=1e-5)
    assert not torch.allclose(plain, drawn, atol=1e-3)
    assert torch.equal(seen.identity[0][2], drawn)
    assert torch.equal(seen.identity[0][5].fake, prompted)


@pytest.mark.parametrize("parts", [1, 2])
def test_an_infinite_gradient_of_the_fake_score_ends_the_run(
    listed: Path, generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """Its loss is finite, and a bound on each element would make the gradient so."""

    def overflow(found: list[Tensor]) -> None:
        found[1].view(-1)[0] = float("inf")

    monkeypatch.setattr("erasure.training.learner.average", overflow)
    with pytest.raises(DivergedError, match=r"fit \(fake\) became NaN or infinite at step 0"):
        one_step(listed, generator, tmp_path / "run", gradient_accumulation=parts)


def test_a_generators_tokenizer_is_saved_alike_whatever_was_asked_of_it(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a padding of its own: a killed run has asked it less, or other things."""
    monkeypatch.setattr(distilling, "duel", lambda model, *_, **__: model.token_count("a cat"))
    rules, saved = Rules(1.0, 1.0, 1.0, 20, 980, 1.0, 0.1), []
    for name in ("one", "two"):
        model = load_model(str(listed))
        if name == "two":
            model.encode(["a dog"])
        distilling.distil(
            model, ["a cat"], rules, pairs=0, steps=1, batch_size=1, learning_rate=1e-3,
            run=Run(tmp_path / name),
        )  # fmt: skip
        saved.append((tmp_path / name / "generator" / "tokenizer" / "tokenizer.json").read_bytes())
    assert saved[0] == saved[1]


@pytest.mark.parametrize("override", ["negative", "both"])
def test_an_override_that_is_never_asked_is_refused(override: str) -> None:
    with pytest.raises(SettingError, match=rf"SFD\.guidance must be above 1 with .* {override}"):
        SFD(override=override, guidance=1.0)  # type: ignore[arg-type]
    SFD(guidance=1.0)


def test_nonsense_is_refused(listed: Path, tmp_path: Path) -> None:
    for settings, said in (
        ({"forget_weight": 0.0}, r"forget_weight must be above 0"),
        ({"dropout": -0.1}, r"dropout must be at least 0"),
    ):
        with pytest.raises(SettingError, match=said):
            SFD(**settings)
    with pytest.raises(SettingError, match=r"last_timestep must be at most the 1000 timesteps"):
        erase(
            str(listed), "sfd", ["cat"], out=tmp_path / "run",
            **{**TINY["sfd"], "last_timestep": 1001},
        )  # fmt: skip
    assert not (tmp_path / "run").exists()
