from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import FAMILIES, Case
from torch import Tensor

from erasure.concepts import find_concepts
from erasure.erasing import Result, erase
from erasure.errors import SettingError
from erasure.files.storage import read_lines, write_tensors
from erasure.foreseeing import foresee_erasure
from erasure.methods.diffusion import uproot
from erasure.methods.shared import renewal
from erasure.methods.shared.state_search import Search, StateSearch
from erasure.methods.shared.training_data import Drawn, Plan, gather, gather_anchors
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.training.run import Run

TINY = {
    "steps": 2,
    "batch_size": 2,
    "retain_batch_size": 4,
    "forget_images": 4,
    "retain_images": 4,
    "sampling_steps": 2,
    "learning_rate": 1e-2,
}


@pytest.mark.parametrize("target", ["current", "original"])
def test_the_terms_are_the_formulas(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """Of the second step, when the target's two models differ, once more in float64."""
    model, real, seen, states = load_model(str(listed)), uproot.draw, [], []
    chosen = StateSearch.conditions

    def noted(*given: object) -> tuple:
        state = {name: w.detach().double() for name, w in model.parameters().items()}
        seen.append((real(*given), state))
        return seen[-1][0]

    def noted_states(search: StateSearch, numbers: Tensor) -> Tensor:
        states.append(chosen(search, numbers))
        return states[-1]

    monkeypatch.setattr(uproot, "draw", noted)
    monkeypatch.setattr(StateSearch, "conditions", noted_states)
    erase(
        model, "uproot", ["cat"], out=tmp_path / "run", target=target, empty_weight=0.4,
        state_weight=0.7, retain_weight=0.3, empty_share=0.5, **TINY,
    )  # fmt: skip
    (_, _), (_, _), (forget, state), (retain, _) = seen
    edited, other = (load_model(str(listed), dtype=torch.float64) for _ in range(2))
    for name, parameter in edited.parameters().items():
        parameter.data = state[name]

    def ask(who: StableDiffusion, picked: tuple, condition: Tensor | list[str]) -> Tensor:
        z0, _, _, t, noise = picked
        abar = other.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
        z_t = abar.sqrt() * z0.double() + (1 - abar).sqrt() * noise.double()
        told = who.encode(condition) if isinstance(condition, list) else condition.double()
        with torch.no_grad():
            return who.predict(z_t, t, told)

    wanted = ask(edited if target == "current" else other, forget, forget[2])
    left = ["", "", *retain[1][2:]]  # half of the kept pictures are asked without a prompt
    got = read_lines(tmp_path / "run" / "log.jsonl")[1]
    for name, weight, condition in (
        ("erase", 1.0, forget[1]), ("erase_empty", 0.4, ["", ""]), ("erase_states", 0.7, states[1]),
    ):  # fmt: skip
        want = weight * float((ask(edited, forget, condition) - wanted).square().mean())
        assert got[name] == pytest.approx(want, rel=1e-3, abs=2e-6), name
    kept = float((ask(edited, retain, left) - retain[4].double()).square().mean())
    assert got["retain"] == pytest.approx(0.3 * kept, rel=1e-3)


def test_what_was_erased_before_is_among_the_kept(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def noise_loss(model: StableDiffusion, drawn: Drawn) -> Tensor:
        asked.extend(drawn[1])
        return plain(model, drawn)

    plain = uproot.noise_loss
    monkeypatch.setattr(uproot, "noise_loss", noise_loss)
    options: dict[str, Any] = {**TINY, "empty_share": 0.0, "retain_batch_size": 16}
    below = erase(str(listed), "uproot", ["cat"], out=tmp_path / "cat", **options).folder
    assert not any("cat" in prompt for prompt in asked)
    asked.clear()
    erase(str(below), "uproot", ["Sketch"], out=tmp_path / "both", **options)
    assert any("cat" in prompt for prompt in asked)
    assert not any("Sketch" in prompt for prompt in asked)


def test_terms_of_no_weight_are_not_computed(listed: Path, tmp_path: Path) -> None:
    erase(
        str(listed), "uproot", ["cat"], out=tmp_path / "run", empty_weight=0, state_weight=0, **TINY
    )
    assert set(read_lines(tmp_path / "run" / "log.jsonl")[0]) == {
        "stage", "step", "erase", "retain",
    }  # fmt: skip


def search_on(model: StableDiffusion, folder: Path, **changes: float) -> StateSearch:
    run = Run(folder)
    forget, _ = gather(model, find_concepts(model, ["cat"]), Plan("auto", 4, 4, "", 2, 7.5), run)
    asked = {"count": 4, "steps": 1, "rate": 0.05, "images": 4, "restart": 0} | changes
    return StateSearch(model, forget, Search(**asked), run)  # type: ignore[arg-type]


def test_the_search_goes_down_the_noise_loss_on_the_encoders_set(
    listed: Path, tmp_path: Path
) -> None:
    """Every state of its own, judged by noised pictures that the search has not seen."""
    model = load_model(str(listed))
    search = search_on(model, tmp_path / "run")
    generator = torch.Generator().manual_seed(1)
    z0 = search.pictures.latents.repeat(8, 1, 1, 1)
    noise, t = torch.randn(z0.shape, generator=generator), model.random_times(32, generator)

    @torch.no_grad()
    def losses() -> Tensor:
        z_t = model.add_noise(z0, noise, t)
        return torch.stack(
            [
                (model.predict(z_t, t, state.expand(32, -1, -1)) - noise).square().mean()
                for state in search.states[:, None]
            ]
        )

    before = losses()
    for step in range(40):
        search.follow(step)
    assert (losses() < before).all()
    states = search.states
    assert torch.allclose(model.onto_states(states, search.seen), states, atol=1e-5)


def test_a_step_is_searched_once_and_a_restart_renews_one_state(
    listed: Path, tmp_path: Path
) -> None:
    search = search_on(load_model(str(listed)), tmp_path / "run", restart=8)
    search.follow(1)
    first = search.states.clone()
    search.follow(1)  # another part of the same batch
    assert torch.equal(search.states, first)
    ages = []
    for step in range(2, 10):
        search.follow(step)
        ages.append(search.age.tolist())
    assert ages[-1] == [2, 4, 6, 8]  # they began anew at steps 8, 6, 4 and 2


def mask_of_one_row(weights: Mapping[str, Tensor], dimensions: int, file: Path) -> str:
    """Write a mask of the first row of the first weight of so many dimensions; its name."""
    masks = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in weights.items()}
    name = next(n for n, w in weights.items() if w.ndim == dimensions)
    masks[name][0] = True
    write_tensors(file, masks)
    return name


def test_only_the_masks_weights_move(listed: Path, tmp_path: Path) -> None:
    weights = load_model(str(listed)).weights("full")
    name = mask_of_one_row(weights, 2, tmp_path / "mask.safetensors")
    result = erase(
        str(listed), "uproot", ["cat"], out=tmp_path / "run",
        mask=str(tmp_path / "mask.safetensors"), **TINY,
    )  # fmt: skip
    assert list(result.edit.shapes()) == [name]
    change = result.model.parameters()[name].detach() - weights[name].detach()
    assert (change[1:] == 0).all()
    assert change[0].any()
    write_tensors(tmp_path / "mask.safetensors", {"unet.x": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(SettingError, match=r"Uproot\.mask must hold a mask for every selected"):
        erase(
            str(listed), "uproot", ["cat"], out=tmp_path / "other",
            mask=str(tmp_path / "mask.safetensors"), **TINY,
        )  # fmt: skip
    assert not (tmp_path / "other").exists()


RENEWED = {**TINY, "renew": 0.3, "distil_steps": 3, "distil_rate": 1e-3, "distil_within": 0.0}


def renewed(model: StableDiffusion | str, out: Path, **changes: Any) -> Result:
    return erase(model, "uproot", ["cat"], out=out, **{**RENEWED, **changes})


class Seen:
    """What the second stage did: weights before and after the noise, and pictures it noised."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.teacher: dict[str, Tensor] = {}
        self.start: dict[str, Tensor] = {}
        self.pictures: list[Tensor] = []
        self.questions: list[dict[str, renewal.Question]] = []
        renew, answers, add = renewal.renew, renewal._answers, StableDiffusion.add_noise

        def noted_renew(weights: renewal.Weights, *rest: Any) -> None:
            self.teacher = {name: w.detach().double() for name, w in weights.items()}
            renew(weights, *rest)
            self.start = {name: w.detach().double() for name, w in weights.items()}

        def noted_answers(model: StableDiffusion, questions: Any) -> dict[str, Tensor]:
            self.questions.append(questions)
            return answers(model, questions)

        def noted_add(model: StableDiffusion, z0: Tensor, *rest: Tensor) -> Tensor:
            if self.teacher:
                self.pictures.append(z0)
            return add(model, z0, *rest)

        monkeypatch.setattr(renewal, "renew", noted_renew)
        monkeypatch.setattr(renewal, "_answers", noted_answers)
        monkeypatch.setattr(StableDiffusion, "add_noise", noted_add)


def test_the_second_stage_learns_the_first_ones_answers(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first step once more in float64."""
    seen = Seen(monkeypatch)
    renewed(str(listed), tmp_path / "run")
    lines = read_lines(tmp_path / "run" / "log.jsonl")
    got = next(line for line in lines if line["stage"] == "distil")
    teacher, student = (load_model(str(listed), dtype=torch.float64) for _ in range(2))
    for model, state in ((teacher, seen.teacher), (student, seen.start)):
        for name, value in state.items():
            model.parameters()[name].data = value
    questions = seen.questions[0]
    assert list(questions) == ["retain", "erase", "erase_states"]
    rows = sum(len(question.t) for question in questions.values())
    for name, question in questions.items():
        asked = question.condition(teacher).double()
        with torch.no_grad():
            said, wanted = (
                one.predict(question.z_t.double(), question.t, asked) for one in (student, teacher)
            )
        want = float((said - wanted).square().mean()) * len(question.t) / rows
        assert got[name] == pytest.approx(want, rel=1e-3, abs=2e-6), name
    assert questions["retain"].asked[0] == ""  # a quarter of them
    assert all("cat" in text for text in questions["erase"].asked)


def test_no_picture_of_the_concept_enters_the_second_stage(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(listed))
    concepts, plan = find_concepts(model, ["cat"]), Plan("auto", 4, 4, None, 2, 7.5)
    forget, retain = gather(model, concepts, plan, Run(tmp_path / "gathered"))
    anchors = gather_anchors(model, concepts, plan, Run(tmp_path / "gathered"))
    allowed = torch.cat([retain.latents, anchors.latents])
    seen = Seen(monkeypatch)
    renewed(str(listed), tmp_path / "run", distil_steps=renewal.LOOK_EVERY)
    entered = torch.cat(seen.pictures)[:, None]
    nearest = (entered - allowed).abs().amax((2, 3, 4)).amin(1)
    assert nearest.max() < 1e-5  # drawn twice
    assert (entered - forget.latents).abs().amax((2, 3, 4)).min() > 1e-2


@pytest.mark.parametrize(
    ("stage", "step"),
    [("fit", 2), ("distil", 1), pytest.param("distil", 3, marks=pytest.mark.slow)],
)
def test_the_second_stage_resumes_in_the_same_bits(
    listed: Path, tmp_path: Path, stopped_after: Callable[..., Any], stage: str, step: int
) -> None:
    whole = renewed(str(listed), tmp_path / "whole")
    with stopped_after(stage, step):
        renewed(str(listed), tmp_path / "run")
    resumed = renewed(str(listed), tmp_path / "run")
    assert whole.edit.tensors.keys() == resumed.edit.tensors.keys()
    for name, tensor in whole.edit.tensors.items():
        assert torch.equal(tensor, resumed.edit.tensors[name]), name


def test_the_second_stage_ends_once_it_keeps_as_well(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_after: Callable[..., Any]
) -> None:
    """Looked at every second step, and found good enough at the third look; resumed, too."""
    losses = iter([1.0, 1.2, 1.06, 1.05, 1.0, 1.05])
    monkeypatch.setattr(renewal, "LOOK_EVERY", 2)
    monkeypatch.setattr(renewal, "kept_loss", lambda *_: next(losses))
    asked = {"distil_steps": 50, "distil_within": 0.05}
    with stopped_after("distil", 6):
        renewed(str(listed), tmp_path / "run", **asked)
    renewed(str(listed), tmp_path / "run", **asked)
    lines = [
        line for line in read_lines(tmp_path / "run" / "log.jsonl") if line["stage"] == "distil"
    ]
    assert [line["step"] for line in lines if "retain" in line] == list(range(6))
    looks = {line["step"]: line["kept_loss_ratio"] for line in lines if "retain" not in line}
    assert looks == {2: 1.2, 4: 1.06, 6: 1.05}


def test_a_look_is_the_noise_loss_by_the_same_noise(listed: Path, tmp_path: Path) -> None:
    model, run = load_model(str(listed)), Run(tmp_path / "run")
    _, kept = gather(model, find_concepts(model, ["cat"]), Plan("auto", 4, 20, None, 2, 7.5), run)
    first = renewal.kept_loss(model, kept, run)
    torch.randn(3, generator=run.generator)
    assert renewal.kept_loss(model, kept, run) == first
    generator = run.generator_for("looks")
    parts = []
    for rows in torch.arange(20).split(model.images_at_once):
        t = model.random_times(len(rows), generator)
        noise = torch.randn((len(rows), *model.latent_shape), generator=generator)
        z_t = model.add_noise(kept.latents[rows], noise, t)
        with torch.no_grad():
            said = model.predict(z_t, t, model.encode([kept.prompts[row] for row in rows.tolist()]))
        parts.append((said - noise).square().flatten(1).mean(1))
    assert first == pytest.approx(float(torch.cat(parts).mean()), rel=1e-4)


@pytest.mark.parametrize(
    "family",
    [
        *FAMILIES[:1],
        *(pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES[1:-1]),
        FAMILIES[-1],
    ],
)
def test_both_stages_on_every_family(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A batch in two parts takes the same steps, up to rounding."""
    case = Case("uproot", request.getfixturevalue(family))
    changes = {"renew": 0.2, "distil_steps": 3, "distil_rate": 1e-3}
    whole, parts = (
        case.run(tmp_path / str(count), gradient_accumulation=count, **changes) for count in (1, 2)
    )
    assert whole.edit.tensors.keys() == parts.edit.tensors.keys()
    pairs = [(t.flatten(), parts.edit.tensors[n].flatten()) for n, t in whole.edit.tensors.items()]
    one, other = (torch.cat(column) for column in zip(*pairs, strict=True))
    assert (one - other).norm() < 0.01 * one.norm()


def test_the_second_stage_in_bf16_leaves_float32(listed: Path, tmp_path: Path) -> None:
    first, again = (
        renewed(str(listed), tmp_path / out, mixed_precision="bf16") for out in ("a", "b")
    )
    base = load_model(str(listed)).weights("full")
    for name, tensor in first.edit.tensors.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, again.edit.tensors[name])
    assert first.edit.shapes().keys() == base.keys()


def test_the_second_stage_of_a_mask(listed: Path, tmp_path: Path) -> None:
    weights = load_model(str(listed)).weights("full")
    name = mask_of_one_row(weights, 4, tmp_path / "mask.safetensors")
    result = renewed(str(listed), tmp_path / "run", mask=str(tmp_path / "mask.safetensors"))
    assert list(result.edit.shapes()) == [name]
    assert (result.model.parameters()[name][1:] == weights[name][1:]).all()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"renew": 1.0}, r"^Uproot\.renew must be below 1; got 1\.$"),
        ({"renew": -0.1}, r"^Uproot\.renew must be at least 0"),
        ({"select": "*.bias"}, r"^Uproot\.renew noises weights of two or four dimensions"),
    ],
)
def test_what_cannot_be_renewed_is_one_line(
    listed: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(SettingError, match=told):
        renewed(str(listed), tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_sees_both_stages(listed: Path, tmp_path: Path) -> None:
    found = foresee_erasure(str(listed), "uproot", ["cat"], out=tmp_path / "run", **RENEWED)
    assert [stage.name for stage in found.stages][-2:] == ["fit", "distil"]
    assert not (tmp_path / "run").exists()
