"""SSD of a UNet: the closed form against gradients taken once more in float64."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from erasure.erasing import erase
from erasure.errors import EditError, SettingError
from erasure.methods.diffusion import ssd
from erasure.models.diffusion.load import load_model

TINY = {
    "batches": 2, "batch_size": 2, "forget_images": 4, "retain_images": 4, "sampling_steps": 2,
    "selection": 1.2, "dampening": 0.8,
}  # fmt: skip


def test_weights_are_dampened_by_their_importances(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = ssd.draw, []

    def noted(*given: object) -> tuple:
        seen.append(real(*given))
        return seen[-1]

    monkeypatch.setattr(ssd, "draw", noted)
    found = erase(str(listed), "ssd", ["cat"], out=tmp_path / "run", select="xattn", **TINY)
    model = load_model(str(listed), dtype=torch.float64)
    weights = model.weights("xattn")

    def importances(batches: list[tuple]) -> dict[str, Tensor]:
        sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for z0, prompts, _, t, noise in batches:
            abar = model.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
            z_t = abar.sqrt() * z0.double() + (1 - abar).sqrt() * noise.double()
            for weight in weights.values():
                weight.requires_grad_(True)
            loss = F.mse_loss(model.predict(z_t, t, model.encode(prompts)), noise.double())
            for name, slope in zip(
                weights, torch.autograd.grad(loss, list(weights.values())), strict=True
            ):
                sums[name] += slope.square() / len(batches)
        return sums

    everything, forgotten = importances(seen[:2]), importances(seen[2:])
    assert all("cat" in prompt for _, prompts, *_ in seen[2:] for prompt in prompts)
    edited, dampened = found.model.parameters(), 0
    for name, weight in weights.items():
        ratio = forgotten[name] / everything[name]
        want = torch.where(ratio > 1.2, (0.8 / ratio).clamp(max=1), 1.0) * weight.detach()
        is_clear = (ratio - 1.2).abs() > 1e-3 * ratio  # elsewhere rounding decides
        got = edited[name].detach().double()
        assert torch.allclose(got[is_clear], want[is_clear], rtol=1e-3, atol=1e-6), name
        dampened += int((got != weight.detach().float().double()).sum())
    assert dampened > 100


def test_a_batch_in_parts_has_the_importance_of_the_whole(listed: Path, tmp_path: Path) -> None:
    """The parts' gradients are averaged before they are squared."""
    whole, parts = (
        erase(str(listed), "ssd", ["cat"], out=tmp_path / str(n), gradient_accumulation=n, **TINY)
        for n in (1, 2)
    )
    base = load_model(str(listed)).parameters()
    moves = [
        torch.cat([(weight - base[name]).detach().flatten()
                   for name, weight in one.model.parameters().items()])
        for one in (whole, parts)
    ]  # fmt: skip
    assert torch.cosine_similarity(*moves, dim=0) > 0.99


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"selection": 1e6}, EditError, "lower selection"),
        ({"anchor": "dog"}, SettingError, "anchor has no effect on ssd"),
        ({"mixed_precision": "bf16"}, SettingError, "mixed_precision has no effect on ssd"),
    ],
)
def test_what_would_do_nothing_is_refused(
    listed: Path, tmp_path: Path, asked: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        erase(str(listed), "ssd", ["cat"], out=tmp_path / "run", **{**TINY, **asked})
    assert not (tmp_path / "run").exists()
