"""FID and KID against scipy's matrix root and a sum written out, and what their spread covers."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from classifiers.predict import load_classifier
from erasure.errors import ModelError, SettingError
from erasure.models.load import POCKET
from evaluation.metrics.clip_score import PocketClip
from evaluation.metrics.fid import (
    ClipFeatures,
    InceptionFeatures,
    JudgeFeatures,
    distances,
    fid,
    kid,
)


def features(seed: int, count: int = 60, width: int = 8, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=torch.Generator().manual_seed(9))
    return torch.randn(count, width, generator=generator) @ mixing + shift


def fid_by_hand(first: np.ndarray, second: np.ndarray) -> float:
    a, b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    apart = first.mean(0) - second.mean(0)
    return float(apart @ apart + np.trace(a + b - 2 * np.real(sqrtm(a @ b))))


def kid_by_hand(first: np.ndarray, second: np.ndarray) -> float:
    """Pairs of unlike images within each set, all pairs across."""

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return (float(x @ y) / len(x) + 1) ** 3

    n, m = len(first), len(second)
    within = sum(kernel(first[i], first[j]) for i in range(n) for j in range(n) if i != j)
    beside = sum(kernel(second[i], second[j]) for i in range(m) for j in range(m) if i != j)
    across = sum(kernel(x, y) for x in first for y in second)
    return within / (n * (n - 1)) + beside / (m * (m - 1)) - 2 * across / (n * m)


def test_fid_agrees_with_scipy() -> None:
    first, second = features(0), features(1, count=45, shift=0.3)
    expected = fid_by_hand(first.double().numpy(), second.double().numpy())
    assert fid(first, second) == pytest.approx(expected, rel=1e-6)  # float64, another root
    assert fid(first, first) == pytest.approx(0, abs=1e-5)


def test_kid_agrees_with_the_sum() -> None:
    first, second = features(0), features(1, shift=0.3)
    expected = kid_by_hand(first.double().numpy(), second.double().numpy())
    assert kid(first, second) == pytest.approx(expected, rel=1e-9)  # float64 sums in another order


def test_kid_of_unlike_numbers_is_a_mean_over_fixed_draws() -> None:
    first, second = features(0, count=90), features(1, shift=0.3)
    state = torch.get_rng_state()
    value = kid(first, second)
    assert torch.equal(state, torch.get_rng_state())
    assert value == kid(first, second)
    expected = kid_by_hand(first.double().numpy(), second.double().numpy())
    assert value == pytest.approx(expected, rel=0.1)  # draws of 60 of the 90


def test_too_few_images() -> None:
    with pytest.raises(SettingError, match="more than 8 images on both sides; got 60 and 8"):
        fid(features(0), features(1, count=8))
    assert set(distances(features(0, count=9), features(1, count=9))) == set()
    assert set(distances(features(0, count=11), features(1, count=11))) == {"FID", "KID"}
    wide = features(0, count=30, width=40)
    assert set(distances(wide, wide)) == {"KID"}


def test_standard_errors_are_the_spread_of_repeated_draws() -> None:
    drawn = [distances(features(2 * s), features(2 * s + 1, shift=0.3)) for s in range(25)]
    for key in ("FID", "KID"):
        values = torch.tensor([scores[key].value for scores in drawn])
        claimed = torch.tensor([scores[key].stderr for scores in drawn])
        # 25 draws give a spread to 14 %
        assert 0.65 < float(claimed.mean() / values.std()) < 1.5, key
        assert not drawn[0][key].higher_is_better
        assert drawn[0][key].n == 60


def test_feature_networks() -> None:
    images = torch.randint(256, (3, 3, 64, 64), dtype=torch.uint8)
    judge = load_classifier(POCKET / "vit")
    seen = JudgeFeatures(judge)(images)
    head = judge.model.head
    assert isinstance(head, torch.nn.Module)
    torch.testing.assert_close(head(seen), judge.logits(images))
    embedded = ClipFeatures(PocketClip(POCKET))(images)
    torch.testing.assert_close(embedded.square().mean(1), torch.ones(3))  # of order one


def test_inception_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchmetrics.image.fid._TORCH_FIDELITY_AVAILABLE", False)
    with pytest.raises(ModelError, match=r"pip install erasure-toolkit\[inception\]"):
        InceptionFeatures()
