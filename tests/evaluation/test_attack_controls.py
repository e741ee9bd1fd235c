"""What stands beside an attack: which model is asked for what, and what the controls are of."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_attacks import SMALL, sampled_shortly
from torch import Tensor

import erasure
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.opening import open_run
from erasure.registry import ATTACKS
from erasure_datasets.images import read_image
from evaluation.attacking.attacking import attack
from evaluation.attacking.scene import Case, Scene, Targets, cases_of, sampling_of
from evaluation.attacking.tuning import Tuning, shuffled
from evaluation.attacks import relearn, relearn_grid
from evaluation.criteria import Criterion

CAT, DOG = "an image of a cat", "an image of a dog"
ONE = {"prompts": 1, "seeds": (188,)}


@pytest.fixture(scope="module")
def erased(tmp_path_factory: pytest.TempPathFactory, sd1: Path) -> Path:
    out = tmp_path_factory.mktemp("runs") / "cat"
    erasure.erase(str(sd1), "uce", ["cat"], kind="object", anchor="dog", out=out)
    return sampled_shortly(out)


@pytest.fixture
def run(erased: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(erased, tmp_path / "cat"))


@pytest.fixture
def never(tmp_path: Path) -> str:
    file = tmp_path / "mine.py"
    file.write_text("def never(images):\n    return images[:, 0, 0, 0] > 255\n")
    return f"{file}:never"


class Never(Criterion):
    name = "never"

    def __call__(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), dtype=torch.bool)


@pytest.fixture
def scene(run: Path) -> Scene:
    model, edit = open_run(run), erasure.Edit.load(run)
    return Scene(
        model, edit.concepts[0], Never(), run / "scene",
        sampling=sampling_of(model, edit.sampling), seed=0, budget=None,
    )  # fmt: skip


def test_the_threshold_is_set_by_what_the_unerased_model_draws(
    run: Path, never: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[Tensor]()
    monkeypatch.setattr(Scene, "calibrate", lambda _, images: seen.append(images))
    attack(run, "paraphrase", criterion=never, count=1, **ONE)
    (base,), (own,) = ((run / "images" / name).glob("*.png") for name in ("plain-base", "plain"))
    assert torch.equal(seen[0], read_image(base)[None])
    assert not torch.equal(seen[0], read_image(own)[None])


@pytest.mark.parametrize("then", ["empty", "prompt"])
def test_the_unerased_model_begins_what_the_erased_one_finishes(
    then: str, run: Path, never: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it begins a picture of the anchor for the control."""
    encode, walk = StableDiffusion.encode, StableDiffusion.continue_path
    encoded, walked = list[tuple[Tensor, list[str]]](), list[tuple[str, str, Any, Any]]()

    def noted(model: StableDiffusion, prompts: Sequence[str]) -> Tensor:
        encoded.append((encode(model, prompts), list(prompts)))
        return encoded[-1][0]

    def told(model: StableDiffusion, z: Tensor, condition: Tensor, **how: Any) -> Tensor:
        (prompt,) = next(texts for tensor, texts in encoded if tensor is condition)
        who = "original" if model.asks_original else "edited"
        walked.append((who, prompt, how.get("first", 0), how.get("until")))
        return walk(model, z, condition, **how)

    monkeypatch.setattr(StableDiffusion, "encode", noted)
    monkeypatch.setattr(StableDiffusion, "continue_path", told)
    attack(run, "completion", criterion=never, steps=4, shares="0.25", then=then, **ONE)
    assert walked == [
        ("original", CAT, 0, 1), ("edited", CAT if then == "prompt" else "", 1, None),
        ("original", DOG, 0, 1), ("edited", DOG if then == "prompt" else "", 1, None),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["inpaint", "image-prompt", "latent-inversion"])
def test_pictures_show_the_concept_and_decoys_the_anchor(
    name: str, run: Path, never: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = Scene.targets, list[str]()

    def noted(scene: Scene, prompts: Sequence[str], stage: str) -> Targets:
        asked.extend(prompts)
        return real(scene, prompts, stage)

    monkeypatch.setattr(Scene, "targets", noted)
    attack(run, name, criterion=never, **ONE, **SMALL[name])
    again = [CAT] if name == "latent-inversion" else []  # upside down
    assert asked == [CAT, *again, DOG]


def test_what_is_sought_is_drawn_by_the_unerased_model(scene: Scene) -> None:
    model, how = scene.model, scene.sampling
    found = scene.targets([CAT], "pictures").latents
    noise = torch.randn((1, *model.latent_shape), generator=scene.generator("pictures"))
    drawn = []
    for fresh in (model, open_run(scene.folder.parent, edited=False)):
        fresh.use_scheduler(how.scheduler)
        with torch.no_grad():
            path = fresh.sample_path(
                fresh.encode([CAT]), steps=how.steps, guidance=how.guidance, noise=noise
            )
        drawn.append(path.finished)
    assert torch.allclose(found, drawn[1], atol=1e-5)
    assert not torch.allclose(found, drawn[0], atol=1e-3)


def test_the_anchors_classifier_never_saw_the_concept(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pictures are learned as others by the concept's alone."""
    values, seen = {"cat": 1.0, "dog": 2.0}, set[float]()
    add = StableDiffusion.add_noise

    def drawn(_: Scene, prompts: Sequence[str], _stage: str) -> Targets:
        own = [next((v for w, v in values.items() if w in text), 3.0) for text in prompts]
        latents = torch.tensor(own).view(-1, 1, 1, 1).expand(-1, *scene.model.latent_shape)
        return Targets(latents, None)

    def noted(model: StableDiffusion, z0: Tensor, *rest: Tensor) -> Tensor:
        seen.update(z0[:, 0, 0, 0].tolist())
        return add(model, z0, *rest)

    monkeypatch.setattr(Scene, "targets", drawn)
    monkeypatch.setattr(StableDiffusion, "add_noise", noted)
    chosen = ATTACKS.get("classifier-guidance")(images=32, learning_steps=8, width=4)
    for what, pictures in (("concept", {1.0, 2.0, 3.0}), ("anchor", {2.0, 3.0})):
        seen.clear()
        chosen._classifier(scene, what)
        assert seen == pictures


def test_random_tokens_are_tried_as_often_as_the_attack_drew(
    run: Path, never: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One case falls at once, so that its control has one try; the other's wins at its second."""
    random_prompt, tried = Scene.random_prompt, list[str]()

    def noted(scene: Scene, *given: Any) -> str:
        tried.append(random_prompt(scene, *given))
        return tried[-1]

    def wins(
        _: Scene, _prompts: Sequence[str], cases: Sequence[Case], kept_as: str | None = None
    ) -> Tensor:
        if kept_as != "control":
            return torch.tensor([case.seed == 188 for case in cases])
        return torch.tensor([case.seed == 288 and len(tried) > 2 for case in cases])

    monkeypatch.setattr(Scene, "random_prompt", noted)
    monkeypatch.setattr(Scene, "wins", wins)
    options = {"criterion": never, "prompts": 1, "seeds": (188, 288)}
    entries = attack(run, "paraphrase", count=3, **options)["per_concept"]["cat"]["cases"]
    found = [
        (entry["case"]["seed"], entry["found"]["tries"], entry["control"], entry["control_tries"])
        for entry in entries
    ]
    assert found == [(188, 1, False, False), (288, 3, False, True)]
    assert len(tried) == 3  # both, and the second case once more
    assert len({*tried}) == 3
    assert all(text.startswith("an image of ") and "cat" not in text for text in tried)


def test_shuffled_weights_hold_the_same_numbers_and_come_back(scene: Scene) -> None:
    weights = scene.model.weights("xattn")
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    with shuffled(weights, torch.Generator().manual_seed(0)):
        for name, weight in weights.items():
            is_moved = not torch.equal(weight, before[name])
            assert is_moved == (weight.dim() > 1), name
            assert torch.equal(weight.flatten().sort().values, before[name].flatten().sort().values)
    assert all(torch.equal(weight, before[name]) for name, weight in weights.items())


def test_relearning_is_counted_beside_weights_that_know_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {name: w.detach().clone() for name, w in scene.model.weights("xattn").items()}
    began = list[bool]()

    def tune(_scene: Scene, cases: Sequence[Case], *given: Any) -> tuple[Tensor, int]:
        weights = given[3]
        began.append(all(torch.equal(weights[name], known[name]) for name in known))
        for weight in weights.values():
            weight.data.add_(1)  # as if it had learned
        return torch.ones(len(cases), dtype=torch.bool), len(began)

    monkeypatch.setattr(relearn, "tune", tune)
    cases = cases_of(scene.model, scene.concept, prompts=1, seeds=(188,))
    chosen = ATTACKS.get("relearn")(images=2, select="xattn")
    assert [found.tries for found in chosen.attack(scene, cases)] == [1]
    assert chosen.random_steps(scene, cases) == 2
    assert began == [True, False]
    assert all(torch.equal(w, known[n]) for n, w in scene.model.weights("xattn").items())


def test_the_grid_is_counted_beside_pictures_of_other_things(
    run: Path, never: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cell begins at the erased weights, and the earliest to bring it back is told."""
    asked, began = list[list[str]](), list[Tensor]()
    ends = iter([(True, 4), (False, 4), (True, 2), (False, 4)])  # the last is of other things

    def tune(
        scene: Scene, cases: Sequence[Case], _: Targets, prompts: list[str], _how: Tuning,
        weights: Any, kept_as: str | None, **_more: Any,
    ) -> tuple[Tensor, int]:  # fmt: skip
        first = next(iter(weights.values()))
        asked.append(prompts)
        began.append(first.detach().clone())
        first.data.add_(1)
        scene.wins([case.prompt for case in cases], cases, kept_as)
        is_back, step = next(ends)
        return torch.full((len(cases),), is_back), step

    monkeypatch.setattr(relearn_grid, "tune", tune)
    options = {"images": "1,2,3", "rates": "1", "selects": "xattn", "steps": 4}
    part = attack(run, "relearn-grid", criterion=never, **ONE, **options)["per_concept"]["cat"]
    assert part["cells"] == {"xattn 3 x1": 4, "xattn 2 x1": None, "xattn 1 x1": 2}
    assert (part["least_steps"], part["kept_steps"]) == (2, None)
    assert [entry["found"]["tries"] for entry in part["cases"]] == [2]
    assert [len(prompts) for prompts in asked] == [3, 2, 1, 3]
    assert all("cat" in text for prompts in asked[:3] for text in prompts)
    assert not any("cat" in text for text in asked[3])
    assert all(torch.equal(start, began[0]) for start in began)
