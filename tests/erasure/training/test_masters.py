"""Masters: what moves, and that nothing else does."""

import pytest
import torch
from torch import nn

from erasure.errors import SettingError
from erasure.training.masters import Masters


def weight(dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.tensor([[1.001, 2.002], [3.003, 4.004]]).to(dtype))


def test_a_float32_weight_is_its_own_master() -> None:
    own = weight()
    assert Masters({"w": own}).moving["w"] is own


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_only_what_the_mask_lets_move_has_a_master(order: torch.memory_format) -> None:
    own = nn.Parameter(torch.arange(16.0).view(1, 4, 2, 2).to(memory_format=order))
    mask = torch.zeros(1, 4, 2, 2, dtype=torch.bool)
    mask[0, 1, 0, 1] = mask[0, 3, 1, 0] = True
    masters = Masters({"w": own}, {"w": mask})
    assert masters.moving["w"].tolist() == [5.0, 14.0]
    own.grad = torch.arange(16.0).view(1, 4, 2, 2) / 10
    masters.take_gradients()
    assert torch.allclose(masters.moving["w"].grad, torch.tensor([0.5, 1.4]))
    assert own.grad is None
    masters.moving["w"].data += 100
    masters.give_back()
    assert own.detach().contiguous().flatten()[[5, 14]].tolist() == [105.0, 114.0]
    assert (own.detach() >= 100).sum() == 2


def test_low_weights_come_back_as_the_float32_they_were() -> None:
    full, own = weight().detach(), weight(torch.bfloat16)
    mask = torch.tensor([[True, False], [False, False]])
    masters = Masters({"w": own}, {"w": mask}, start={"w": full})
    assert masters.are_low
    masters.moving["w"].data += 1e-4  # far below what bfloat16 resolves
    masters.give_back()
    assert own.dtype == torch.bfloat16
    masters.close()
    assert own.dtype == torch.float32
    assert torch.equal(own.detach()[~mask], full[~mask])
    assert own[0, 0].item() == pytest.approx(1.0011, abs=1e-6)


def test_a_mask_that_holds_everything_is_refused() -> None:
    with pytest.raises(SettingError, match="must let at least one weight change"):
        Masters({"w": weight()}, {"w": torch.zeros(2, 2, dtype=torch.bool)})
