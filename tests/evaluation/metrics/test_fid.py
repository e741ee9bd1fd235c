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


def test_kid_of_unlike_numbers() -> None:
    first, second = features(0, count=90), features(1, shift=0.3)
    expected = kid_by_hand(first.double().numpy(), second.double().numpy())
    assert kid(first, second) == pytest.approx(expected, rel=1e-9)


def test_kid_of_unlike_prompts_agrees_with_loops() -> None:
    first, second = features(0, count=12).double(), features(1, count=12, shift=0.3).double()
    shared = torch.tensor([[n % 4, n // 6] for n in range(12)])

    def mean(a: torch.Tensor, b: torch.Tensor) -> float:
        pairs = [(i, j) for i in range(12) for j in range(12) if (shared[i] != shared[j]).all()]
        return sum(float(a[i] @ b[j] / 8 + 1) ** 3 for i, j in pairs) / len(pairs)

    expected = mean(first, first) + mean(second, second) - 2 * mean(first, second)
    assert kid(first, second, shared) == pytest.approx(expected, rel=1e-9)
    assert kid(first, first, shared) == pytest.approx(0, abs=1e-9)
    with pytest.raises(SettingError, match="images of two prompts or more"):
        kid(first, second, torch.zeros(12, 1, dtype=torch.long))


def by_prompt(seed: int, each: int, shift: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """`each` images of 24 prompts, which are far apart; (features, prompts)."""
    generator = torch.Generator().manual_seed(seed)
    middles = 2 * torch.randn(24, 8, generator=torch.Generator().manual_seed(9))
    prompts = torch.arange(24).repeat(each)
    drawn = middles[prompts] + 0.5 * torch.randn(len(prompts), 8, generator=generator)
    return drawn + shift, prompts[:, None]


@pytest.mark.parametrize("each", [1, 2])
def test_sets_of_the_same_prompts_have_a_kid_of_0_if_alike(each: int) -> None:
    """Over 200 pairs of sets; the published estimator is far below 0 on the same ones."""
    found, published, moved = [], [], []
    for seed in range(200):
        first, prompts = by_prompt(2 * seed, each)
        second, _ = by_prompt(2 * seed + 1, each)
        found.append(kid(first, second, prompts))
        published.append(kid(first, second))
        moved.append(kid(first + 0.3, second, prompts))
    values = torch.tensor(found)
    error = float(values.std()) / 200**0.5
    assert abs(float(values.mean())) < 2 * error
    assert float(torch.tensor(published).mean()) < -10 * error
    assert float(torch.tensor(moved).mean()) > 10 * error


def test_too_few_images() -> None:
    def numbers(count: int) -> torch.Tensor:
        return torch.arange(count)[:, None]

    with pytest.raises(SettingError, match="more than 8 images on both sides; got 60 and 8"):
        fid(features(0), features(1, count=8))
    assert set(distances(features(0, count=9), features(1, count=9), numbers(9))) == set()
    assert set(distances(features(0, count=11), features(1, count=11), numbers(11))) == {
        "FID", "KID",
    }  # fmt: skip
    wide = features(0, count=30, width=40)
    assert set(distances(wide, wide, numbers(30))) == {"KID"}
    # one prompt, or one more thing that all images share: no pair is left
    assert set(distances(wide, wide, numbers(30) * 0)) == set()
    alike = torch.stack([torch.arange(30), torch.zeros(30, dtype=torch.long)], 1)
    assert set(distances(wide, wide, alike)) == set()


def test_standard_errors_are_the_spread_of_repeated_draws() -> None:
    shared = torch.arange(60)[:, None]
    drawn = [distances(features(2 * s), features(2 * s + 1, shift=0.3), shared) for s in range(25)]
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
