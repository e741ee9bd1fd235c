from pathlib import Path

import pytest
import torch
from torch import Tensor

from erasure.erasing import erase
from erasure.errors import SettingError
from erasure.files.storage import read_lines
from erasure.methods.diffusion import bounded
from erasure.methods.diffusion.bounded import Bounded
from erasure.models.diffusion.load import load_model

TINY = {
    "steps": 2,
    "batch_size": 2,
    "forget_images": 4,
    "retain_images": 4,
    "sampling_steps": 2,
    "learning_rate": 1e-2,
}


def test_each_loss_is_its_formula() -> None:
    torch.manual_seed(0)
    said, before, instead, target = torch.randn(4, 3, 2, 4, 4, dtype=torch.float64)

    def apart(first: Tensor, second: Tensor) -> Tensor:
        return (first - second).square().mean((1, 2, 3))

    u, risen = 0.7, (apart(said, target) - apart(before, target)) / 0.7
    own, other = torch.exp(-apart(said, before) / u), torch.exp(-apart(said, instead) / u)
    ahead = 1 + (apart(said, instead) - apart(said, before)) / u
    for settings, want in (
        ({"loss": "npo", "beta": 0.5}, 4 * torch.log(1 + torch.exp(-risen) ** 0.5)),
        ({"loss": "ascent"}, -risen),
        ({"loss": "ihl"}, ahead.clamp(min=0)),
        ({"loss": "flat", "divergence": "kl"}, torch.exp(own - 1) - other),
        ({"loss": "flat", "divergence": "tv"}, (own.tanh() - other.tanh()) / 2),
        ({"loss": "flat", "divergence": "pearson"}, own + own**2 / 4 - other),
    ):
        got = Bounded(**settings).pushed(said, before, instead, target, u)
        # distances are computed in float32
        assert torch.allclose(got.double(), want, rtol=1e-5), settings


def test_the_first_step_is_the_formula_at_the_original_model(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the hinge is 1 + d_a / u, of the pictures drawn, and u the mean over all of them."""
    model, real, seen, units = load_model(str(listed)), bounded.draw, [], []
    whole = Bounded.pushed

    def noted(*given: object) -> tuple:
        seen.append(real(*given))
        return seen[-1]

    def noted_unit(self: Bounded, *given: object) -> Tensor:
        units.append(given[-1])
        return whole(self, *given)

    monkeypatch.setattr(bounded, "draw", noted)
    monkeypatch.setattr(Bounded, "pushed", noted_unit)
    erase(model, "bounded", ["cat"], out=tmp_path / "run", loss="ihl", **TINY)
    z0, prompts, anchors, t, noise = seen[0]
    exact = load_model(str(listed), dtype=torch.float64)
    z_t = exact.add_noise(z0.double(), noise.double(), t)
    with torch.no_grad():
        one, other = (exact.predict(z_t, t, exact.encode(text)) for text in (prompts, anchors))
    log = read_lines(tmp_path / "run" / "log.jsonl")
    want = 1 + float((one - other).square().mean()) / units[0]
    assert log[0]["erase"] == pytest.approx(want, rel=1e-3)
    assert set(log[0]) == {"stage", "step", "erase"}
    assert units[0] == units[1] > 0


def test_what_is_kept_is_looked_at_where_it_weighs(listed: Path, tmp_path: Path) -> None:
    erase(str(listed), "bounded", ["cat"], out=tmp_path / "run", retain_weight=0.5, **TINY)
    assert "retain" in read_lines(tmp_path / "run" / "log.jsonl")[0]


def test_a_concept_that_is_drawn_as_its_anchor_is_refused(listed: Path, tmp_path: Path) -> None:
    model = load_model(str(listed))
    with torch.no_grad():
        for weight in model.weights("xattn.kv").values():
            weight.zero_()  # prompts change nothing any more
    with pytest.raises(SettingError, match="anchor must be something that the model draws other"):
        erase(model, "bounded", ["cat"], out=tmp_path / "run", **TINY)
    assert not (tmp_path / "run").exists()
