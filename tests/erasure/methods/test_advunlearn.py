"""AdvUnlearn's attack and what it may change."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from contract import TINY, Case

import erasure
from erasure.errors import SettingError
from erasure.files.storage import read_lines
from erasure.methods.diffusion import advunlearn
from erasure.methods.diffusion.advunlearn import AdvUnlearn
from erasure.methods.shared.paths import Points
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.slots import place
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.models.select import select_names
from erasure.training.run import Run
from erasure_datasets.concept import Concept

PROMPTS = ["A cat image in Winter style.", "A cat image in Photo style."]


def distances(
    model: StableDiffusion, method: AdvUnlearn, run: Run
) -> tuple[torch.Tensor, torch.Tensor]:
    """The inner loss per point at the attack's random start, and at its end."""
    generator = torch.Generator().manual_seed(3)
    z, t = torch.randn(2, 4, 16, 16, generator=generator), torch.tensor([600, 800])
    slotted = model.open_slots([place(p, method.placement) for p in PROMPTS], method.tokens)
    with torch.no_grad():
        asked = model.predict(z, t, model.encode(["A dog image in Photo style."] * 2))
    found = []
    for chosen in (replace(method, attack_rate=1e-12), method):
        run.generator.manual_seed(1)
        vectors = chosen._attack(model, slotted, Points(z, t, [], {}), asked, None, run)
        with torch.no_grad():
            said = model.predict(z, t, model.encode_slots(slotted, vectors))
        found.append((said - asked).square().flatten(1).mean(1))
    return found[0], found[1]


@pytest.mark.parametrize(
    "settings",
    [
        {"attack": "adam", "attack_steps": 8, "attack_rate": 0.02},
        {"attack": "sign", "attack_steps": 8, "attack_rate": 0.01},
        {"attack": "fast", "attack_steps": 3, "attack_rate": 0.01},
        {"attack": "adam", "attack_steps": 8, "attack_rate": 0.02, "attack_shared": True},
    ],
)
def test_the_attack_brings_the_prediction_back(
    settings: dict, pocket: StableDiffusion, tmp_path: Path
) -> None:
    method = AdvUnlearn(**settings, tokens=3, batch_size=2)
    before, after = distances(pocket, method, Run(tmp_path))
    assert float(after.mean()) < 0.97 * float(before.mean())


def test_a_layer_is_named_exactly() -> None:
    known = [f"text_encoder.text_model.encoder.layers.{n}.mlp.fc1.weight" for n in range(12)]
    assert select_names("text.layer.1", known) == [known[1]]
    assert select_names("text.layer.11, text.layer.0", known) == [known[0], known[11]]
    with pytest.raises(SettingError, match=r"'text.layer.12' matched none"):
        select_names("text.layer.1,text.layer.12", known)


def test_embeddings_are_left_alone(sd1: Path, tmp_path: Path) -> None:
    model = load_model(str(sd1))
    names = model.weights("text.layers").keys()
    assert names
    assert not any("embedding" in name for name in names)
    concept = Concept("cat", "object", anchor="dog")
    edit = AdvUnlearn(**TINY["advunlearn"]).erase(model, [concept], Run(tmp_path))
    assert edit.tensors.keys() <= names


def test_more_tokens_than_the_window_are_refused_and_nothing_is_left(
    sd1: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match="do not fit"):
        erasure.erase(
            str(sd1), "advunlearn", ["cat"], kind="object", out=tmp_path / "run", tokens=40
        )
    assert not (tmp_path / "run").exists()


def test_the_outer_terms_are_the_papers(
    sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second step's, from eq. 7's form with eta, computed once more in float64."""
    eta, model, real = 0.5, load_model(str(sd1)), advunlearn.points
    seen: list[tuple[Points, dict[str, torch.Tensor]]] = []

    def noted(*given: object) -> Points:
        seen.append((real(*given), {n: w.detach().double() for n, w in model.parameters().items()}))
        return seen[-1][0]

    monkeypatch.setattr(advunlearn, "points", noted)
    settings = {**TINY["advunlearn"], "push": 1 + eta, "retain_weight": 0.3, "steps": 3}
    erasure.erase(model, "advunlearn", ["cat"], kind="object", out=tmp_path / "run", **settings)
    (_, _), (_, _), (forget, weights), (retain, _) = seen[:4]
    before, edited = (load_model(str(sd1), dtype=torch.float64) for _ in range(2))
    for name, parameter in edited.parameters().items():
        parameter.data = weights[name]

    def ask(who: StableDiffusion, at: Points, texts: Sequence[str]) -> torch.Tensor:
        with torch.no_grad():
            return who.predict(at.z_t.double(), at.t, who.encode(texts))

    texts = forget.prompts[0]
    some, none = ask(before, forget, texts), ask(before, forget, [""] * len(texts))
    erase = ask(edited, forget, texts) - (none - eta * (some - none))
    kept = ask(edited, retain, retain.prompts[0]) - ask(before, retain, retain.prompts[0])
    got = read_lines(tmp_path / "run" / "log.jsonl")[1]
    assert got["erase"] == pytest.approx(float(erase.square().mean()), rel=1e-3)
    want = 0.3 * float(kept.square().mean())
    assert want > 1e-5
    assert got["retain"] == pytest.approx(want, rel=1e-2, abs=2e-6)


def test_after_the_warm_up_the_model_is_asked_under_the_attacks_vectors(
    sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third step's term, which is the first one that is attacked, once more in float64."""
    model, real, attack = load_model(str(sd1)), advunlearn.points, AdvUnlearn._attack
    seen, found = list[tuple[Points, dict[str, torch.Tensor]]](), list[torch.Tensor]()

    def noted(*given: object) -> Points:
        seen.append((real(*given), {n: w.detach().double() for n, w in model.parameters().items()}))
        return seen[-1][0]

    def told(self: AdvUnlearn, *given: object) -> torch.Tensor:
        found.append(attack(self, *given))
        return found[-1]

    monkeypatch.setattr(advunlearn, "points", noted)
    monkeypatch.setattr(AdvUnlearn, "_attack", told)
    settings = {**TINY["advunlearn"], "push": 2.0, "steps": 3}
    erasure.erase(model, "advunlearn", ["cat"], kind="object", out=tmp_path / "run", **settings)
    (at, weights), (vectors,) = seen[4], found
    before, edited = (load_model(str(sd1), dtype=torch.float64) for _ in range(2))
    for name, parameter in edited.parameters().items():
        parameter.data = weights[name]
    texts = at.prompts[0]
    slotted = edited.open_slots([place(text, "prefix") for text in texts], 1)
    with torch.no_grad():
        some, none = (
            before.predict(at.z_t.double(), at.t, before.encode(prompts))
            for prompts in (texts, [""] * len(texts))
        )
        said, plain = (
            edited.predict(at.z_t.double(), at.t, condition)
            for condition in (
                edited.encode_slots(slotted, vectors.double()), edited.encode(texts),
            )
        )  # fmt: skip
    want, unattacked = (
        float((answer - (some - 2 * (some - none))).square().mean()) for answer in (said, plain)
    )
    got = read_lines(tmp_path / "run" / "log.jsonl")[2]["erase"]
    assert got == pytest.approx(want, rel=1e-3)
    assert got != pytest.approx(unattacked, rel=1e-2)


@pytest.mark.parametrize("accumulate", [False, True])
def test_signed_steps_by_hand(sd1: Path, tmp_path: Path, accumulate: bool) -> None:
    """Two steps; the gradients that add up are the last sign and the new gradient."""
    model, run = load_model(str(sd1)), Run(tmp_path)
    method = AdvUnlearn(attack="sign", attack_steps=2, attack_rate=0.05, accumulate=accumulate)
    slotted = model.open_slots([place("a cat", "prefix")], 1)
    z, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    with torch.no_grad():
        asked = model.predict(z, t, model.encode(["a cat"]))
    start = 0.1 * torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(1))
    got = method._attack(model, slotted, Points(z, t, [], {}), asked, start, run)

    def slope(vectors: torch.Tensor) -> torch.Tensor:
        vectors = vectors.clone().requires_grad_(True)
        loss = (model.predict(z, t, model.encode_slots(slotted, vectors)) - asked).square().mean()
        return torch.autograd.grad(loss, [vectors])[0]

    first = slope(start).sign()
    middle = start - 0.05 * first
    want = middle - 0.05 * (slope(middle) + (first if accumulate else 0)).sign()
    assert torch.allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("init", ["latest", "random"])
def test_one_attack_serves_several_steps(
    sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, init: str
) -> None:
    real, starts = AdvUnlearn._attack, []

    def noted(self: AdvUnlearn, *given: object) -> torch.Tensor:
        starts.append(given[4] is None)
        return real(self, *given)

    monkeypatch.setattr(AdvUnlearn, "_attack", noted)
    Case("advunlearn", sd1).run(tmp_path / "run", attack_init=init, steps=7, attack_every=2)
    assert starts == [True, False, False]  # steps 2, 4 and 6; the first has none to begin at


def test_a_shared_attack_in_parts_is_refused(
    sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "attack_shared must be false where batches are computed in parts"
    with pytest.raises(SettingError, match=said):
        Case("advunlearn", sd1).run(tmp_path / "a", attack_shared=True, gradient_accumulation=2)
    assert not (tmp_path / "a").exists()
    monkeypatch.setattr(advunlearn, "process_count", lambda: 2)
    with pytest.raises(SettingError, match=said):
        Case("advunlearn", sd1).run(tmp_path / "b", attack_shared=True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 100}, "AdvUnlearn.warmup must be below steps; got 200"),
        ({"accumulate": True, "attack": "fast"}, "AdvUnlearn.accumulate needs an attack of more"),
        ({"accumulate": True, "attack_steps": 1}, "AdvUnlearn.accumulate needs an attack of more"),
        ({"push": 0.0}, "AdvUnlearn.push must be above 0 with push_from prompt"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        AdvUnlearn(**settings)
