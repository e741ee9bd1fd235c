from pathlib import Path

import pytest
import torch
from torch import Tensor

from erasure.concepts import find_concepts
from erasure.erasing import erase
from erasure.errors import SettingError
from erasure.files.storage import read_lines, write_tensors
from erasure.methods.diffusion import uproot
from erasure.methods.shared.state_search import Search, StateSearch
from erasure.methods.shared.training_data import Plan, gather
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


def test_only_the_masks_weights_move(listed: Path, tmp_path: Path) -> None:
    weights = load_model(str(listed)).weights("full")
    masks = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in weights.items()}
    name = next(n for n, w in weights.items() if w.ndim == 2)
    masks[name][0] = True
    write_tensors(tmp_path / "mask.safetensors", masks)
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
