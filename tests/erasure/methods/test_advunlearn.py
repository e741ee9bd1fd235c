"""AdvUnlearn's attack and what it may change."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from contract import TINY

from erasure.errors import SettingError
from erasure.methods.diffusion.advunlearn import AdvUnlearn
from erasure.models.load import load_model
from erasure.models.select import select_names
from erasure.models.slots import place
from erasure.models.stable_diffusion import StableDiffusion
from erasure.paths import Points
from erasure.run import Run
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
    import erasure

    with pytest.raises(SettingError, match="do not fit"):
        erasure.erase(
            str(sd1), "advunlearn", ["cat"], kind="object", out=tmp_path / "run", tokens=40
        )
    assert not (tmp_path / "run").exists()
