"""Adapters: asked of the original they are away, and only groups that do something are kept."""

from pathlib import Path

import pytest
import torch

from erasure.errors import EditError
from erasure.models.diffusion.load import load_model
from erasure.models.lora import DOWN, UP, Adapter, linears, moving_groups

QUERY, KEY = (
    f"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_{part}" for part in "qk"
)


def test_the_original_answers_without_the_adapter(sd1: Path) -> None:
    model = load_model(str(sd1))
    layers = linears(model, [QUERY, KEY])
    adapter = Adapter.fresh(layers, 2, 2.0, torch.Generator().manual_seed(0))
    condition = model.encode(["a cat"])
    z, t = torch.randn(1, *model.latent_shape), torch.tensor([500])
    with torch.no_grad():
        before = model.predict(z, t, condition)
        for matrix in adapter.up.values():
            matrix.add_(1)
        with adapter.on(model, layers):
            assert not torch.allclose(model.predict(z, t, condition), before, atol=1e-4)
            with model.original():
                assert torch.equal(model.predict(z, t, condition), before)
            with adapter.off():
                assert torch.equal(model.predict(z, t, condition), before)
        assert torch.equal(model.predict(z, t, condition), before)


def test_a_group_that_changes_too_little_is_left_out(sd1: Path) -> None:
    """Each change is the norm of scale B A as a share of the weight's."""
    model = load_model(str(sd1))
    weights = {name: model.parameters()[f"{name}.weight"] for name in (QUERY, KEY)}
    tensors = {}
    for name, share in ((QUERY, 0.1), (KEY, 0.3)):
        (rows, columns), norm = weights[name].shape, weights[name].norm()
        down, up = torch.ones(1, columns), torch.ones(rows, 1)
        tensors |= {name + DOWN: down, name + UP: up * share * norm / (2 * (up @ down).norm())}
    groups = [[QUERY], [KEY]]
    kept, changes = moving_groups(model, tensors, groups, 2.0, 0.2)
    assert changes == pytest.approx([0.1, 0.3])
    assert kept.keys() == {KEY + DOWN, KEY + UP}
    assert moving_groups(model, tensors, [[QUERY, KEY]], 2.0, 0.2)[0].keys() == tensors.keys()
    with pytest.raises(EditError, match=r"no weight of .* by more than 0\.5 of its size"):
        moving_groups(model, tensors, groups, 2.0, 0.5)
