from pathlib import Path

import pytest
import torch
from torch import Tensor

from erasure.errors import SettingError
from erasure.methods.shared.renewal import Renewal, check_renewable, noised, renew, replaced
from erasure.models.diffusion.load import load_model

HOW = Renewal(0.4, 0.1, 2, 1e-3, 0.05, decay=True)


def by_hand(value: Tensor, share: float, scale: float, seed: int) -> Tensor:
    """The formula in float64: uniform within sqrt(6 / (inputs + outputs)), a window counted."""
    drawn = torch.rand(value.shape, generator=torch.Generator().manual_seed(seed)).double()
    outputs, inputs, *window = value.shape
    area = 1
    for side in window:
        area *= side
    bound = (6 / ((inputs + outputs) * area)) ** 0.5
    return (1 - share) * value.double() + share * scale * bound * (2 * drawn - 1)


@pytest.mark.parametrize("shape", [(24, 40), (16, 8, 3, 3)])
def test_noise_is_a_fresh_networks(shape: tuple[int, ...]) -> None:
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = noised(value, 0.4, 0.1, torch.Generator().manual_seed(1))
    assert got.dtype == torch.float64
    assert torch.allclose(got, by_hand(value, 0.4, 0.1, 1), rtol=0, atol=1e-7)  # float32 noise
    assert torch.equal(noised(value, 0.0, 0.1, torch.Generator().manual_seed(1)), value)


def test_norms_and_biases_stay_and_the_rest_is_the_formula(sd1: Path) -> None:
    """One generator for all, so that no two weights share their noise."""
    weights = load_model(str(sd1)).weights("full")
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    renew(weights, None, HOW, torch.Generator().manual_seed(3))
    generator, kinds = torch.Generator().manual_seed(3), set()
    for name, weight in weights.items():
        kinds.add(weight.dim())
        want = before[name]
        if weight.dim() in (2, 4):
            want = noised(want, 0.4, 0.1, generator)
            assert not torch.equal(weight, before[name]), name
        assert torch.equal(weight, want), name
    assert kinds == {1, 2, 4}


def test_only_a_masks_weights_are_noised(sd1: Path) -> None:
    weights = load_model(str(sd1)).weights("xattn")
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    masks = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in weights.items()}
    first = next(name for name, weight in weights.items() if weight.dim() == 2)
    masks[first][0] = True
    renew(weights, masks, HOW, torch.Generator().manual_seed(3))
    for name, weight in weights.items():
        assert torch.equal(weight[~masks[name]], before[name][~masks[name]]), name
    assert (weights[first][0] != before[first][0]).all()


def test_weights_without_a_matrix_are_refused(sd1: Path) -> None:
    weights = load_model(str(sd1)).weights("full")
    biases = {name: weight for name, weight in weights.items() if name.endswith(".bias")}
    told = r"^Uproot\.renew noises weights of two or four dimensions"
    with pytest.raises(SettingError, match=told):
        check_renewable("Uproot", biases, None)
    masks = {
        name: torch.full_like(w, w.dim() == 1, dtype=torch.bool) for name, w in weights.items()
    }
    with pytest.raises(SettingError, match=told):
        check_renewable("Uproot", weights, masks)
    check_renewable("Uproot", weights, None)


def test_weights_are_put_back_whatever_happens(sd1: Path) -> None:
    weights = load_model(str(sd1)).weights("xattn")
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    zeros = {name: torch.zeros_like(weight) for name, weight in weights.items()}

    def fail() -> None:
        with replaced(weights, zeros):
            assert all((weight == 0).all() for weight in weights.values())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert all(torch.equal(weight, before[name]) for name, weight in weights.items())
