from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from erasure.concepts import find_concepts
from erasure.erasing import erase
from erasure.errors import SettingError
from erasure.files.storage import read_lines
from erasure.methods.diffusion import doco
from erasure.methods.shared.discriminator import Discriminator, check_depth
from erasure.methods.shared.training_data import Plan, gather
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.training.run import Run

TINY = {
    "steps": 2,
    "warmup": 0,
    "batch_size": 2,
    "depth": 1,
    "forget_images": 4,
    "retain_images": 4,
    "sampling_steps": 2,
    "learning_rate": 1e-2,
}


def test_the_critic_and_the_model_are_asked_what_the_formulas_say(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second step once more in float64: when the model has moved from the original one."""
    model, real, seen, told = load_model(str(listed)), doco.draw, [], []
    answer = Discriminator.forward

    def noted(*given: object) -> tuple:
        state = {name: w.detach().double() for name, w in model.parameters().items()}
        seen.append((real(*given), state))
        return seen[-1][0]

    def noted_answer(critic: Discriminator, latents: Tensor, spread: Tensor) -> Tensor:
        told.append((latents.detach(), answer(critic, latents, spread)))
        return told[-1][1]

    monkeypatch.setattr(doco, "draw", noted)
    monkeypatch.setattr(Discriminator, "forward", noted_answer)
    erase(model, "doco", ["cat"], out=tmp_path / "run", retain_weight=0.3, noisiest=0.5, **TINY)
    (for_critic, state), (for_model, _), (kept, _) = seen[3:]
    edited, other = (load_model(str(listed), dtype=torch.float64) for _ in range(2))
    for name, parameter in edited.parameters().items():
        parameter.data = state[name]

    def noised(picked: tuple, share: float) -> tuple[Tensor, Tensor, Tensor]:
        z0, _, _, t, noise = picked
        t = (share * t).long()
        abar = other.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
        return abar.sqrt() * z0.double() + (1 - abar).sqrt() * noise.double(), t, abar

    def ask(who: StableDiffusion, picked: tuple, prompts: list[str], share: float) -> Tensor:
        z_t, t, _ = noised(picked, share)
        with torch.no_grad():
            return who.predict(z_t, t, who.encode(prompts))

    def denoised(who: StableDiffusion, picked: tuple, prompts: list[str]) -> Tensor:
        z_t, _, abar = noised(picked, 0.5)
        return (z_t - (1 - abar).sqrt() * ask(who, picked, prompts, 0.5)) / abar.sqrt()

    want = torch.cat(
        [denoised(other, for_critic, for_critic[2]), denoised(edited, for_critic, for_critic[1])]
    )
    assert torch.allclose(told[2][0].double(), want, rtol=1e-3, atol=1e-3)
    want = denoised(edited, for_model, for_model[1])
    assert torch.allclose(told[3][0].double(), want, rtol=1e-3, atol=1e-3)
    on_real, on_drawn = told[2][1].detach().double().chunk(2)
    got = read_lines(tmp_path / "run" / "log.jsonl")[1]
    assert got["critic_real"] == pytest.approx(float(F.softplus(on_real).mean()), rel=1e-4)
    assert got["critic_drawn"] == pytest.approx(float(F.softplus(-on_drawn).mean()), rel=1e-4)
    assert got["erase"] == pytest.approx(
        float(F.softplus(told[3][1].detach().double()).mean()), rel=1e-4
    )
    left = float((ask(edited, kept, kept[1], 1.0) - kept[4].double()).square().mean())
    assert got["retain"] == pytest.approx(left, rel=1e-3)  # as it is, whatever it weighs


def test_a_step_goes_no_further_against_the_kept(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model's weights are given is orthogonal to the retain gradient where they clash."""
    found, real = [], doco.operated

    def noted(push: list[Tensor], keep: list[Tensor], *rest: object) -> tuple:
        found.append((push, keep, real(push, keep, *rest)))
        return found[-1][2]

    monkeypatch.setattr(doco, "operated", noted)
    erase(str(listed), "doco", ["cat"], out=tmp_path / "run", **TINY)
    shares = [float(share) for _, _, (_, share) in found]
    assert 0 < sum(shares) < len(shares)
    assert read_lines(tmp_path / "run" / "log.jsonl")[-1]["against"] == pytest.approx(
        sum(shares) / len(shares), abs=1e-6
    )
    for push, keep, (left, _) in found:
        for before, kept, after in zip(push, keep, left, strict=True):
            if (before * kept).sum() < 0:
                limit = 1e-5 * float(before.norm() * kept.norm())
                assert abs(float((after * kept).sum())) <= limit
            else:
                assert torch.equal(before, after)


def test_forget_only_keeps_no_pictures(listed: Path, tmp_path: Path) -> None:
    erase(str(listed), "doco", ["cat"], out=tmp_path / "run", surgery="none", **TINY)
    assert set(read_lines(tmp_path / "run" / "log.jsonl")[0]) == {
        "stage", "step", "critic_real", "critic_drawn", "erase",
    }  # fmt: skip


def test_the_anchors_pictures_go_by_the_concepts_prompts(listed: Path, tmp_path: Path) -> None:
    model, run = load_model(str(listed)), Run(tmp_path / "run")
    (cat,) = find_concepts(model, ["cat"], anchor="tree", contexts="sketch")
    plan = Plan("generated", 3, 0, "", 2, 1.0, shows_anchor=True)
    shown, kept = gather(model, [cat], plan, run)
    assert shown.prompts == ["A cat image in Sketch style."] * 3
    assert shown.anchors == ["A tree image in Sketch style."] * 3
    assert len(kept.latents) == len(kept.prompts) == 0
    (tree,) = find_concepts(model, ["tree"], contexts="Sketch")
    drawn, _ = gather(model, [tree], Plan("generated", 3, 0, "", 2, 1.0), run)
    assert torch.equal(shown.latents, drawn.latents)


def test_the_critic_needs_latents_of_a_size_and_may_be_told_the_noise() -> None:
    with pytest.raises(SettingError, match=r"DoCo.depth must be at most 1 for latents of 8 x 8"):
        check_depth("DoCo", 2, (4, 8, 8))
    check_depth("DoCo", 4, (4, 64, 64))
    latents, spread = torch.ones(2, 4, 16, 16), torch.tensor([0.2, 0.9]).view(2, 1, 1, 1)
    for knows, differs in ((True, True), (False, False)):
        one, other = Discriminator(4, 2, knows_noise=knows)(latents, spread)
        assert one.shape == (1, 1, 1)
        assert torch.equal(one, other) != differs
