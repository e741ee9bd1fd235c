"""The protocol gold on miniatures: what it says, and what it refuses."""

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import other_weights
from safetensors.torch import load_file, save_file
from single_file import write_single_file
from torch import Tensor

import erasure
from erasure.errors import ErasureError, ModelError, RunError, SettingError
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.model import Sampling
from erasure.opening import open_run
from erasure_datasets.concept import Concept
from erasure_datasets.images import read_image
from evaluation.against_gold import compare, three
from evaluation.attacking.beside_gold import gold_run
from evaluation.attacking.scene import Case, Found, Scene, cases_of
from evaluation.attacks.relearn import Relearn
from evaluation.attacks.state_inversion import StateInversion
from evaluation.drawing.pocket_plan import catalogue
from evaluation.evaluating import evaluate
from evaluation.metrics.knowledge import losses


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LEVELS": 2, "KEPT": 3}.items():
        monkeypatch.setattr(three, name, value)
    monkeypatch.setattr(compare, "SEARCHED", 2)
    monkeypatch.setattr(three, "sampling_of", lambda *_: Sampling(2, 2.0, "DDIMScheduler"))


@pytest.fixture(scope="module")
def run(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gold") / "run"
    erasure.erase(str(sd1), "uce", ["cat"], kind="object", anchor="dog", out=out)
    return out


def test_it_says_how_far_from_gold_and_keeps_it(run: Path, sd1: Path) -> None:
    record = evaluate(run, protocol="gold", gold=str(other_weights(sd1)))
    assert json.loads((run / "scores" / "gold.json").read_text()) == record
    told = {"divergence", "divergence_kept", "loss_gap_caption", "loss_gap_empty", "probe"}
    assert told | {"loss_gap_state"} == set(record["scores"]) == set(record["baseline"])
    assert set(record["left_out"]) == {"judge_distance", "picture_distance", "relearn_ratio"}
    assert len(record["curves"]["cat"]["loss_empty"]["gold"]) == 2
    # UCE leaves the empty prompt's loss as it was: K and V of states that no edit names
    scores, base = record["scores"]["loss_gap_empty"], record["baseline"]["loss_gap_empty"]
    assert scores["value"] == pytest.approx(base["value"], abs=1e-3)
    # gold itself stands at no distance from gold
    own = evaluate(run / "gold", protocol="gold", gold=run / "gold", out=None)
    assert own["scores"]["divergence"]["value"] == 0
    assert own["scores"]["loss_gap_caption"]["value"] == 0


def test_every_distance_is_of_its_own_models_and_pictures(
    run: Path, sd1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once more from three models that are opened here, and the pictures in their folders."""

    @torch.no_grad()
    def search(_: StateInversion, scene: Scene, _number: int) -> Tensor:
        """A state that goes by the weights of the model that is asked."""
        z, empty = torch.ones(1, *scene.model.latent_shape), scene.model.encode([""])
        return empty + 10 * scene.model.predict(z, torch.tensor([500]), empty).mean()

    models = {"scores": open_run(run), "baseline": open_run(run, edited=False)}
    (cat,) = erasure.Edit.load(run).concepts
    known = len(cases_of(models["scores"], cat, prompts=16, seeds=(188, 288)))
    first, plain = next(iter(models["baseline"].weights("xattn.kv").items()))

    def features(model: LatentDiffusion, z0: Tensor) -> Tensor:
        """Of the un-erased model alone they tell the concept's pictures, which come first."""
        tells = torch.equal(model.parameters()[first], plain)
        return torch.stack([(torch.arange(len(z0)) < known) & tells, torch.ones(len(z0))], 1)

    monkeypatch.setattr(StateInversion, "search", search)
    monkeypatch.setattr(compare, "middle_features", features)
    record = evaluate(run, protocol="gold", gold=str(other_weights(sd1)))
    gold = open_run(run / "gold")
    asked = three.Three(run, models["scores"], run / "gold", gold, cat, (188, 288))

    def pictures(cases: Sequence[Case], folder: Path) -> Tensor:
        files = [folder / f"{case.name}.png" for case in cases]
        return gold.to_latents(torch.stack([read_image(file) for file in files])).float()

    prompts = [case.prompt for case in asked.cases]
    before, golds = (
        pictures(asked.cases, folder)
        for folder in (run / "images" / "plain-base", run / "gold" / "images" / "plain")
    )

    def lost(model: LatentDiffusion, z0: Tensor, given: list[str] | Tensor) -> float:
        condition = model.encode(given) if isinstance(given, list) else given
        condition = condition.expand(len(z0), -1, -1)
        return float(losses(model, z0, condition, levels=three.LEVELS).mean())

    def state(model: LatentDiffusion) -> Tensor:
        return search(StateInversion(), asked.scene("edited" if model is not gold else "gold"), 0)

    for part, model in models.items():
        own = before if part == "baseline" else pictures(asked.cases, run / "images" / "plain")
        asked.edited = model
        want = {
            "loss_gap_caption": lost(model, before, prompts) - lost(gold, before, prompts),
            "loss_gap_empty": lost(model, before, [""]) - lost(gold, before, [""]),
            "loss_gap_state": lost(model, before, state(model)) - lost(gold, before, state(gold)),
            "divergence": lost(gold, own, prompts) - lost(model, own, prompts)
            + lost(model, golds, prompts) - lost(gold, golds, prompts),
        }  # fmt: skip
        found = {name: record[part][name]["value"] for name in want}
        # differences of losses near 1, which are means of float32
        assert found == pytest.approx(want, rel=1e-3, abs=1e-6), part
    told = record["scores"]["probe"], record["baseline"]["probe"]
    assert [score["value"] for score in told] == [0.5, 1.0]


def test_gold_is_a_run_like_any_other(sd1: Path, tmp_path: Path) -> None:
    other = other_weights(sd1)
    made = erasure.erase(
        str(sd1), "gold", ["cat"], kind="object", out=tmp_path / "gold", weights=str(other)
    )
    want = erasure.load_model(str(other)).parameters()
    held = open_run(made.folder).parameters()
    assert all(torch.equal(held[name], weight.float()) for name, weight in want.items())


def test_what_is_no_gold_is_refused(run: Path, sd1: Path, sd2: Path, tmp_path: Path) -> None:
    wrong: list[tuple[object, type[ErasureError], str]] = [
        (None, SettingError, "needs --gold"),
        (run, SettingError, "made by uce"),
        (str(tmp_path / "none"), ModelError, "must be pocket"),
        (str(sd2), ModelError, "another architecture"),
        ("pocket", SettingError, "never saw 'cat'"),
    ]
    for number, (gold, error, words) in enumerate(wrong):
        out = tmp_path / str(number)
        erasure.erase(str(sd1), "uce", ["cat"], kind="object", anchor="dog", out=out)
        with pytest.raises(error, match=words) as said:
            evaluate(out, protocol="gold", gold=gold)  # type: ignore[arg-type]
        assert "\n" not in str(said.value)
        assert not (out / "scores").exists()
    with pytest.raises(SettingError, match="takes no gold"):
        evaluate(run, protocol="unlearncanvas", gold="pocket")


def test_the_shipped_gold_never_saw_its_two(tmp_path: Path) -> None:
    made = erasure.erase("pocket", "gold", ["tower", "Ukiyoe"], out=tmp_path / "gold")
    assert {concept.name for concept in made.edit.concepts} == {"tower", "Ukiyoe"}
    with pytest.raises(SettingError, match="trained without tower, Ukiyoe alone"):
        erasure.erase("pocket", "gold", ["cat"], out=tmp_path / "cat")


def test_a_gold_model_that_was_trained_on_is_made_again(sd1: Path, tmp_path: Path) -> None:
    """Whatever its files' times say."""
    gold, out = tmp_path / "model", tmp_path / "run"
    shutil.copytree(other_weights(sd1), gold)
    erasure.erase(str(sd1), "uce", ["cat"], kind="object", anchor="dog", out=out)
    assert gold_run(out, gold) == gold_run(out, gold) == out / "gold"
    file, later = gold / "unet" / "diffusion_pytorch_model.safetensors", time.time() + 10
    os.utime(file, (later, later))
    assert gold_run(out, gold) == out / "gold"
    tensors = load_file(file)
    save_file({name: value + 0.01 for name, value in tensors.items()}, file)
    os.utime(file, (1, 1))
    with pytest.raises(RunError, match=r"gold holds .* of its inputs, weights has changed since"):
        gold_run(out, gold)


def test_gold_is_made_of_the_runs_own_base(sd1: Path, tmp_path: Path) -> None:
    """With its configs, and without the revision of what lies in another place by now."""
    file, out = write_single_file(sd1, tmp_path / "model.safetensors"), tmp_path / "run"
    edit = erasure.erase(
        str(file), "uce", ["cat"], kind="object", anchor="dog", out=out, config=sd1
    ).edit
    gold = other_weights(sd1)
    assert gold_run(out, gold) == out / "gold"
    shutil.rmtree(out / "gold")
    replace(edit, revision="main").save(out)
    assert gold_run(out, gold, base=sd1) == out / "gold"


def test_gold_has_each_concepts_own_prompts(sd1: Path, tmp_path: Path) -> None:
    """Those of a file, and of a list's contexts."""
    file, out = tmp_path / "concepts.csv", tmp_path / "run"
    file.write_text(
        "concept,kind,anchor,templates\ncat,object,dog,a drawing of {a name}\ntulip,object,rose,\n"
    )
    edit = erasure.erase(str(sd1), "uce", file, out=out).edit
    assert erasure.Edit.load(gold_run(out, other_weights(sd1))).concepts == edit.concepts
    some = tmp_path / "some"
    edit = erasure.erase("pocket", "uce", ["tower"], contexts="Winter", out=some).edit
    assert erasure.Edit.load(gold_run(some, "pocket")).concepts == edit.concepts


def pocket_three(folder: Path, seeds: tuple[int, ...]) -> three.Three:
    model = load_model("pocket")
    concept = catalogue().concept("tower")
    return three.Three(folder / "run", model, folder / "gold", model, concept, seeds)


def test_what_is_kept_never_asks_for_the_concept(tmp_path: Path) -> None:
    usual, others = (pocket_three(tmp_path, seeds).kept_cases() for seeds in ((188, 288), (588,)))
    assert not [case for case in others if "tower" in case.prompt]
    assert len(others) == three.KEPT
    assert others == usual


def test_what_is_kept_asks_for_nothing_that_the_run_erased(
    sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does one run's kept picture stand for another prompt's."""
    monkeypatch.setattr(three, "KEPT", 36)

    def asked(base: str, concept: Concept, *erased: Concept) -> list[Case]:
        model: Any = load_model(base)
        places = tmp_path / "run", model, tmp_path / "gold", model
        return three.Three(*places, concept, (188,), erased).kept_cases()

    tower, ukiyoe = catalogue().concept("tower"), catalogue().concept("Ukiyoe")
    prompts = [case.prompt for case in asked("pocket", tower, ukiyoe)]
    assert len(prompts) == three.KEPT
    assert not [text for text in prompts if "tower" in text or "Ukiyoe" in text]
    cats, train, tiger = (Concept(name, "object") for name in ("Cats", "train", "tiger"))
    first, second = asked(str(sd1), cats, train), asked(str(sd1), train, cats)
    assert first == second
    prompts = [case.prompt for case in first]
    assert not {"a photo of a cat", "a photo of a train"} & {*prompts}
    assert "a photo of an airplane" in prompts
    own = {case.name: case.prompt for case in first}
    assert all(own.get(c.name, c.prompt) == c.prompt for c in asked(str(sd1), tiger))


def test_steps_to_relearn_are_counted_anew_for_other_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[int]] = []

    def attack(_: Relearn, __: Scene, cases: list[Case]) -> list[Found]:
        asked.append({case.seed for case in cases})
        return [Found(True, len(asked), case.prompt) for case in cases]

    monkeypatch.setattr(Relearn, "attack", attack)
    for seeds, steps in (((188,), 1), ((288,), 2), ((288,), 2)):
        found = pocket_three(tmp_path, seeds)
        assert compare.steps_to_relearn(found, "edited", Relearn(), (1.0,)) == [steps]
    assert asked == [{188}, {288}]
