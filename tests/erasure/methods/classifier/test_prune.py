"""Pruning: exact shares, scores by hand, and zeros that stay whatever follows."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from networks import image_folder, resnet_folder, timm_folder
from torch import nn

from erasure.errors import SettingError
from erasure.forgetting import Data, forget
from erasure.methods.classifier.prune import Prune, prunable
from erasure.methods.shared.pruning import largest_stay, sparsity_of
from erasure.methods.shared.synflow import as_flow, flow_scores, synflow
from erasure.models.classifier.load import load_classifier
from erasure.training.run import Run


def test_exactly_the_share_goes_and_the_smallest() -> None:
    scores = {"a": torch.tensor([3.0, -5.0, 0.0]), "b": torch.tensor([[1.0, -2.0], [0.0, 4.0]])}
    masks = largest_stay(scores, 0.6)  # 4.2 of 7
    assert masks["a"].tolist() == [True, True, False]
    assert masks["b"].tolist() == [[False, False], [False, True]]
    assert sparsity_of(masks) == pytest.approx(4 / 7)
    assert sparsity_of(largest_stay(scores, 0.0)) == 0


def test_rounds_end_at_the_sparsity() -> None:
    assert Prune(score="omp", sparsity=0.5).shares() == [0.5]
    shares = Prune(score="imp", sparsity=0.95).shares()
    assert len(shares) == 14  # 1 - 0.8^14 is 0.956, the first above
    assert shares[-1] == pytest.approx(0.95)
    left = [1 - share for share in (0.0, *shares)]
    ratios = [b / a for a, b in pairwise(left)]
    assert ratios == pytest.approx([0.05 ** (1 / 14)] * 14)


def test_flow_of_a_chain_by_hand() -> None:
    """|W2|^T 1 on one side, 1 on the other; the norm between, whose output is zero, is passed."""
    torch.manual_seed(0)
    chain = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 5, bias=False), nn.LayerNorm(5), nn.Linear(5, 3, bias=False)
    )
    flowing = {name: weight.detach().abs().double() for name, weight in chain.named_parameters()}
    picture = torch.ones(1, 3, 2, 2, dtype=torch.float64)
    with as_flow(chain):
        scores = flow_scores(chain, flowing, {}, picture, ["1.weight", "3.weight"])
    first, second = flowing["1.weight"], flowing["3.weight"]
    want = {"1.weight": second.sum(0)[:, None] * first, "3.weight": second * first.sum(1)[None]}
    top = max(value.max() for value in want.values())
    for name, value in want.items():
        assert torch.allclose(scores[name], value / top), name


def test_flow_reaches_all_of_a_block(tmp_path: Path) -> None:
    model = load_classifier(str(timm_folder(tmp_path / "model")))
    names = prunable(model, "both")
    assert len(names) == 8
    before = {name: tensor.clone() for name, tensor in model.tensors().items()}
    masks = synflow(model, names, 0.5, 5, Run(tmp_path / "run"))
    assert sparsity_of(masks) == pytest.approx(0.5, abs=1e-4)
    query, key, value = masks["blocks.0.attn.qkv.weight"].chunk(3)
    assert all(0.1 < float(part.float().mean()) < 0.9 for part in (query, key, value))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.tensors().items())


@pytest.mark.parametrize("score", ["synflow", "random"])
@pytest.mark.parametrize("then", ["salun", "ssd"])
def test_zeros_stay(score: str, then: str, tmp_path: Path) -> None:
    """Momentum, weight decay and a second mask go past them, and so does a second request."""
    model = str(resnet_folder(tmp_path / "model"))
    image_folder(tmp_path / "images", per_class=5)
    made = forget(
        model, "prune", [["red"], ["blue"]], out=tmp_path / "run", watch_every=0, quick=True,
        data=Data(source=str(tmp_path / "images"), images=4, test_images=1), score=score, then=then,
        sparsity=0.6, learning_rate=1e-3, batch_size=8,
        then_settings="selection=1,batch_size=4" if then == "ssd"
        else "epochs=2,batch_size=4,learning_rate=0.001",
    ).model  # fmt: skip
    weights = {name: made.parameters()[name] for name in prunable(made, "both")}
    assert "fc.weight" not in weights
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    count = sum(weight.numel() for weight in weights.values())
    assert zeros == int(0.6 * count) or (then == "ssd" and zeros >= int(0.6 * count))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"then": "gs-lora"}, "of gs-lora, its adapters fill the zeros"),
        ({"then": "prune"}, "must be another method"),
        ({"then": "salum"}, "Did you mean salun"),
        ({"then_settings": "epoch=3"}, "got 'epoch=3'. Did you mean epochs"),
        ({"then_settings": "epochs=many"}, "epochs must be int; got 'many'"),
        ({"then_settings": "epochs=0"}, "FineTune.epochs must be at least 1"),
        ({"sparsity": 1.0}, "Prune.sparsity must be at most 0.999"),
    ],
)
def test_what_cannot_follow(settings: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Prune(**settings)
