from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from erasure.erasing import erase
from erasure.errors import SettingError
from erasure.files.storage import read_lines
from erasure.methods.diffusion import esd
from erasure.methods.shared.paths import Points, push_rows
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure_datasets.concept import Concept


def test_prompts_by_what_is_pushed() -> None:
    concept = [Concept("cat", "object", ("a {name} on a mat",), anchor="dog")]
    rows = {kind: push_rows(concept, kind)[0] for kind in ("prompt", "anchor", "concept")}
    cat, dog = "a cat on a mat", "a dog on a mat"
    assert rows == {
        "prompt": (cat, cat, cat, ""),
        "anchor": (cat, dog, cat, ""),
        "concept": (cat, cat, "cat", ""),
    }


def in_float64(folder: Path) -> StableDiffusion:
    model = load_model(str(folder), dtype=torch.float64)
    model.alphas_cumprod = model.alphas_cumprod.double()
    return model


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Points]:
    """The points that ESD draws, in turn."""
    found: list[Points] = []
    real = esd.points
    monkeypatch.setattr(esd, "points", lambda *given: found.append(real(*given)) or found[-1])
    return found


def first_terms(folder: Path) -> dict[str, float]:
    return read_lines(folder / "log.jsonl")[0]


def test_the_loss_is_the_papers(listed: Path, tmp_path: Path, drawn: list[Points]) -> None:
    """The first step's, from eq. 7 as printed: eps_0(x) - eta (eps_0(x, c) - eps_0(x))."""
    eta = 0.5
    erase(
        str(listed), "esd", ["cat"], out=tmp_path / "run", steps=1, batch_size=3, push=1 + eta,
        paths=2, sampling_steps=3, learning_rate=1e-4,
    )  # fmt: skip
    model, at = in_float64(listed), drawn[0]
    some, none = (
        model.predict(at.z_t.double(), at.t, model.encode(texts))
        for texts in (at.prompts[0], [""] * 3)
    )
    want = (some - (none - eta * (some - none))).square().mean().item()
    assert first_terms(tmp_path / "run")["erase"] == pytest.approx(want, rel=1e-4, abs=2e-6)


@pytest.mark.parametrize("push_from", ["anchor", "concept"])
def test_other_targets_and_the_retain_term(
    listed: Path, tmp_path: Path, drawn: list[Points], push_from: str
) -> None:
    """The second step's terms, computed again with the weights of a run of one step."""
    settings = {
        "batch_size": 2, "push": 3.0, "push_from": push_from, "retain_weight": 0.7, "paths": 2,
        "sampling_steps": 3, "learning_rate": 1e-2,
    }  # fmt: skip
    erase(str(listed), "esd", ["cat"], out=tmp_path / "run", steps=2, **settings)
    _, _, forget, retain = drawn
    one = erase(str(listed), "esd", ["cat"], out=tmp_path / "one", steps=1, **settings)
    model, edited = in_float64(listed), in_float64(listed)
    for name, tensor in one.edit.tensors.items():
        edited.parameters()[name].data = tensor.double()

    def ask(who: StableDiffusion, at: Points, texts: Sequence[str]) -> torch.Tensor:
        return who.predict(at.z_t.double(), at.t, who.encode(texts))

    texts = forget.prompts[0]
    starts = [text.replace("cat", "dog") for text in texts] if push_from == "anchor" else texts
    pushed = ["cat"] * 2 if push_from == "concept" else texts
    push = ask(model, forget, pushed) - ask(model, forget, [""] * 2)
    wanted = ask(model, forget, starts) - 3.0 * push
    want = (ask(edited, forget, texts) - wanted).square().mean().item()
    kept = ask(edited, retain, retain.prompts[0]) - ask(model, retain, retain.prompts[0])
    got = read_lines(tmp_path / "run" / "log.jsonl")[1]
    assert got["erase"] == pytest.approx(want, rel=1e-3)
    assert kept.square().mean().item() > 1e-4
    assert got["retain"] == pytest.approx(0.7 * kept.square().mean().item(), rel=1e-3, abs=2e-6)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_u_and_all_are_the_linear_and_convolutional_layers(
    family: str, request: pytest.FixtureRequest
) -> None:
    model = load_model(str(request.getfixturevalue(family)))
    layers = {
        f"unet.{name}.{part}": "attn2" in name
        for name, module in model.pipeline.unet.named_modules()
        if type(module).__name__ in ("Linear", "Conv2d")
        for part, _ in module.named_parameters()
    }
    assert set(esd.weights_of(model, "all")) == set(layers)
    chosen = set(esd.weights_of(model, "u"))
    assert chosen == {name for name, is_cross in layers.items() if not is_cross}
    assert any("time_embedding" in name for name in chosen)
    assert not any("norm" in name for name in chosen)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"push": 0.0}, "ESD.push must be above 0 with push_from prompt"),
        ({"push": 0.0, "push_from": "concept"}, "ESD.push must be above 0 with push_from concept"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        esd.ESD(**settings)
    esd.ESD(push=0.0, push_from="anchor")


def test_training_approaches_its_target(listed: Path, tmp_path: Path) -> None:
    erase(
        str(listed), "esd", ["cat"], out=tmp_path / "run", steps=60, batch_size=4, paths=4,
        sampling_steps=4, learning_rate=1e-2, push=4.0,
    )  # fmt: skip
    losses = [line["erase"] for line in read_lines(tmp_path / "run" / "log.jsonl")]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
