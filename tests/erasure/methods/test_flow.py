"""Methods and attacks on a flow-matching model: the losses are those of its own velocity."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from flow import MiniatureFlow
from torch import Tensor

from erasure.methods.diffusion import esd, salun
from erasure.models.diffusion.model import Sampling
from erasure.training.learner import Learner
from erasure.training.run import Run
from erasure_datasets.concept import Concept
from evaluation.attacking.scene import Scene, Targets

CAT = [Concept("cat", "object", ("a {name}", "the {name}"), anchor="dog")]


def watched(method: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """The loss's terms at each step of the method, unrounded."""
    terms, real = list[dict[str, float]](), method.fit

    def fit(learner: Learner, **more: Any) -> None:
        def noted(step: int) -> dict[str, Tensor]:
            found = learner.loss(step)
            terms.append({name: float(value.detach()) for name, value in found.items()})
            return found

        real(replace(learner, loss=noted), **more)

    monkeypatch.setattr(method, "fit", fit)
    return terms


@pytest.mark.parametrize("push_from", ["prompt", "anchor"])
def test_esd_steers_the_velocity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, push_from: str
) -> None:
    seen, real, terms = [], esd.points, watched(esd, monkeypatch)
    monkeypatch.setattr(esd, "points", lambda *given: seen.append(real(*given)) or seen[-1])
    method = esd.ESD(
        steps=2, batch_size=3, push=1.5, push_from=push_from, select="full", paths=4,
        sampling_steps=3, retain_weight=0.5,
    )  # fmt: skip
    edit = method.erase(MiniatureFlow(), CAT, Run(tmp_path))
    assert {name.partition(".")[0] for name in edit.tensors} == {"transformer"}
    model, at = MiniatureFlow(), seen[0]

    def said(prompts: tuple[str, ...]) -> Tensor:
        return model.predict(at.z_t, at.t, model.encode(prompts))

    named, start, pushed = at.prompts[:3]
    wanted = said(start) - 1.5 * (said(pushed) - said(("",) * 3))
    want = float((said(named) - wanted).square().mean())
    assert terms[0]["erase"] == pytest.approx(want, rel=1e-9)
    assert terms[0]["retain"] < 1e-30


def test_salun_learns_the_velocity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real, terms = [], salun.draw, watched(salun, monkeypatch)
    monkeypatch.setattr(salun, "draw", lambda *given: seen.append(real(*given)) or seen[-1])
    method = salun.SalUn(
        steps=2, batch_size=2, retain_weight=0.3, forget_images=3, retain_images=4,
        sampling_steps=2,
    )  # fmt: skip
    method.erase(MiniatureFlow(), CAT, Run(tmp_path))
    model, (forget, retain) = MiniatureFlow(), seen[:2]

    def asked(drawn: tuple, texts: list[str]) -> Tensor:
        z0, _, _, t, noise = drawn
        sigma = (t.double() / 1000).view(-1, 1, 1, 1)
        return model.predict((1 - sigma) * z0 + sigma * noise, t, model.encode(texts))

    erase = (asked(forget, forget[1]) - asked(forget, forget[2])).square().mean()
    assert terms[0]["erase"] == pytest.approx(float(erase), rel=1e-9)
    z0, prompts, _, t, noise = retain
    assert (t != t.round()).any()
    kept = (asked(retain, prompts) - (noise - z0)).square().mean()
    assert terms[0]["retain"] == pytest.approx(0.3 * float(kept), rel=1e-9)


@pytest.mark.parametrize("level", [None, 0.25])
def test_an_attack_is_taught_the_velocity(tmp_path: Path, level: float | None) -> None:
    model = MiniatureFlow()
    scene = Scene(
        model, CAT[0], lambda images: images, tmp_path,
        sampling=Sampling(2, 1.0, "FlowMatchEulerDiscreteScheduler"), seed=0, budget=None,
    )  # fmt: skip
    targets = scene.targets(["a cat", "the cat", "a dog"], "targets")
    assert isinstance(targets, Targets)
    rows = torch.tensor([2, 0])
    z_t, t, wanted = scene.lesson(targets, rows, torch.Generator(), level)
    assert level is None or t.tolist() == [250, 250]
    z0 = targets.latents[rows]
    assert torch.allclose(model.denoised(z_t, wanted, t), z0, atol=1e-12)
    noise = wanted + z0
    assert torch.allclose(z_t, model.add_noise(z0, noise, t), atol=1e-12)
