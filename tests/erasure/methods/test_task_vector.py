"""Task vector: the edit is the fine-tuning's difference backwards, and what that goes up."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from erasure.config import Value
from erasure.edit import Edit
from erasure.erasing import erase
from erasure.errors import SettingError
from erasure.files.storage import read_lines
from erasure.methods.diffusion import task_vector
from erasure.models.diffusion.load import load_model

TINY: dict[str, Value] = {
    "steps": 3, "batch_size": 2, "forget_images": 4, "sampling_steps": 2, "learning_rate": 1e-3,
}  # fmt: skip


def ways(folder: Path, edit: Edit) -> Tensor:
    """How far each weight went, in a row, in float64."""
    base = load_model(str(folder)).parameters()
    return torch.cat(
        [(new.double() - base[n].detach().double()).flatten() for n, new in edit.tensors.items()]
    )


def test_the_edit_is_minus_strength_times_what_tuning_moved(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit in float32, of the weights as tuning left them."""
    model, real, tuned = load_model(str(listed)), task_vector.go_back, {}

    def noted(weights: dict[str, Tensor], start: object, strength: object) -> None:
        tuned.update({name: weight.detach().clone() for name, weight in weights.items()})
        real(weights, start, strength)

    monkeypatch.setattr(task_vector, "go_back", noted)
    done = erase(
        model, "task-vector", ["cat"], out=tmp_path / "run", strength=2.5, select="xattn", **TINY
    )
    base = load_model(str(listed)).parameters()
    assert tuned.keys() == done.edit.tensors.keys()
    for name, new in done.edit.tensors.items():
        old = base[name].detach()
        assert torch.equal(new, old - 2.5 * (tuned[name] - old)), name


@pytest.mark.parametrize("prompts", ["empty", "concept"])
def test_one_step_goes_up_the_noise_loss_of_the_concepts_pictures(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts: str
) -> None:
    """Adam's first step is learning_rate g / (|g| + 1e-8), of a gradient computed in float64."""
    real, drawn = task_vector.draw, []
    monkeypatch.setattr(task_vector, "draw", lambda *given: drawn.append(real(*given)) or drawn[-1])
    settings = {**TINY, "steps": 1, "prompts": prompts, "strength": 2.0}
    done = erase(str(listed), "task-vector", ["cat"], out=tmp_path / "run", **settings)
    z0, texts, _, t, noise = drawn[0]
    assert all("cat" in text if prompts == "concept" else text == "" for text in texts)
    exact = load_model(str(listed), dtype=torch.float64)
    weights = {name: exact.parameters()[name] for name in done.edit.tensors}
    for weight in weights.values():
        weight.requires_grad_()
    said = exact.predict(exact.add_noise(z0.double(), noise.double(), t), t, exact.encode(texts))
    loss = (said - noise.double()).square().mean()
    gradients = torch.autograd.grad(loss, list(weights.values()))
    assert read_lines(tmp_path / "run" / "log.jsonl")[0]["learn"] == pytest.approx(
        loss.item(), rel=1e-3
    )
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    want, got = 2.0 * 1e-3 * flat / (flat.abs() + 1e-8), ways(listed, done.edit)
    # elements whose gradient is rounding may go either way
    assert torch.cosine_similarity(got, want, dim=0) > 0.99
    assert float(got.norm() / want.norm()) == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"anchor": "dog"}, "anchor has no effect on task-vector"),
        ({"sample_every": 2, "report_to": "tensorboard"}, "sample_every has no effect"),
        ({"strength": 0.0}, "TaskVector.strength must be above 0"),
        ({"prompts": "cat"}, "TaskVector.prompts must be one of empty, concept"),
        ({"images": "nowhere"}, "there is no folder nowhere"),
    ],
)
def test_what_it_cannot_use_is_refused(listed: Path, tmp_path: Path, more: dict, said: str) -> None:
    with pytest.raises(SettingError, match=said) as raised:
        erase(str(listed), "task-vector", ["cat"], out=tmp_path / "run", **{**TINY, **more})
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()
