"""FID and KID against scipy's matrix root and a sum written out, and what their spread covers."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from erasure.errors import ModelError, SettingError
from erasure.models.built_in import POCKET
from erasure.models.classifier.load import load_classifier
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


def test_kid_of_unlike_seeds_agrees_with_loops() -> None:
    first, second = features(0, count=12).double(), features(1, count=12, shift=0.3).double()
    seeds = torch.arange(12) % 3

    def mean(a: torch.Tensor, b: torch.Tensor) -> float:
        pairs = [(i, j) for i in range(12) for j in range(12) if seeds[i] != seeds[j]]
        return sum(float(a[i] @ b[j] / 8 + 1) ** 3 for i, j in pairs) / len(pairs)

    expected = mean(first, first) + mean(second, second) - 2 * mean(first, second)
    assert kid(first, second, seeds) == pytest.approx(expected, rel=1e-9)
    assert kid(first, first, seeds) == pytest.approx(0, abs=1e-9)
    with pytest.raises(SettingError, match="images of two seeds or more"):
        kid(first, second, seeds * 0)


PROMPTS, SEEDS = torch.arange(24).repeat(2), torch.arange(2).repeat_interleave(24)


def by_prompt(seed: int) -> torch.Tensor:
    """Two images of each of 24 prompts, which are far apart."""
    generator = torch.Generator().manual_seed(seed)
    middles = torch.randn(24, 8, generator=torch.Generator().manual_seed(9))
    return middles[PROMPTS] + 0.5 * torch.randn(48, 8, generator=generator)


def test_sets_of_the_same_prompts_have_a_kid_of_0_if_alike() -> None:
    """Over 200 pairs of sets, among them pairs that mix up the prompts: the mixture is the same.

    The published estimator is far below 0 on the same sets, and images of one noise change nothing.
    """
    found: dict[str, list[float]] = {}
    for seed in range(200):
        first, second = by_prompt(2 * seed), by_prompt(2 * seed + 1)
        mixed = first.view(2, 24, 8).roll(1, 1).reshape(48, 8)
        for name, value in {
            "alike": kid(first, second, SEEDS),
            "mixed": kid(mixed, second, SEEDS),
            "noise": kid(first, first + 0.01 * second, SEEDS),
            "moved": kid(first + 0.3, second, SEEDS),
            "published": kid(first, second),
        }.items():
            found.setdefault(name, []).append(value)
    means = {name: float(np.mean(values)) for name, values in found.items()}
    errors = {name: float(np.std(values)) / 200**0.5 for name, values in found.items()}
    assert abs(means["alike"]) < 2 * errors["alike"]
    assert abs(means["mixed"]) < 2 * errors["mixed"]
    assert abs(means["noise"]) < errors["alike"]
    assert means["moved"] > 10 * errors["moved"]
    assert means["published"] < -10 * errors["published"]


def test_too_few_images() -> None:
    with pytest.raises(SettingError, match="more than 8 images on both sides; got 60 and 8"):
        fid(features(0), features(1, count=8))

    def found(prompts: torch.Tensor, seeds: torch.Tensor, width: int = 8) -> set[str]:
        first, second = (features(n, count=len(prompts), width=width) for n in range(2))
        return set(distances(first, second, prompts, seeds))

    numbers = torch.arange(22)
    assert found(numbers % 11, numbers // 11) == {"FID", "KID"}
    assert found(numbers % 11, numbers // 11, width=40) == {"KID"}
    assert found(numbers[:20] % 10, numbers[:20] // 10) == {"FID"}
    assert found(numbers[:9], numbers[:9] * 0) == set()
    # one seed, a prompt that is not under both, one that is there twice
    assert found(numbers, numbers * 0) == {"FID"}
    assert found(numbers[:21] % 11, numbers[:21] // 11) == {"FID"}
    assert found(torch.where(numbers == 1, 0, numbers % 11), numbers // 11) == {"FID"}


def test_standard_errors_are_the_spread_of_repeated_draws() -> None:
    prompts, seeds = torch.arange(60) % 30, torch.arange(60) // 30
    drawn = [
        distances(features(2 * s), features(2 * s + 1, shift=0.3), prompts, seeds)
        for s in range(25)
    ]
    for key in ("FID", "KID"):
        values = torch.tensor([scores[key].value for scores in drawn])
        claimed = torch.tensor([scores[key].stderr for scores in drawn])
        # 25 draws give a spread to 14 %
        assert 0.65 < float(claimed.mean() / values.std()) < 1.5, key
        assert not drawn[0][key].higher_is_better
        assert drawn[0][key].n == 60


def test_feature_networks() -> None:
    images = torch.randint(256, (3, 3, 64, 64), dtype=torch.uint8)
    judge = load_classifier("pocket-vit")
    seen = JudgeFeatures(judge)(images)
    head = judge.network.head
    assert isinstance(head, torch.nn.Module)
    torch.testing.assert_close(head(seen).softmax(1), judge.predict(images))
    embedded = ClipFeatures(PocketClip(POCKET))(images)
    torch.testing.assert_close(embedded.square().mean(1), torch.ones(3))  # of order one


def test_inception_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchmetrics.image.fid._TORCH_FIDELITY_AVAILABLE", False)
    with pytest.raises(ModelError, match=r"pip install erasure-toolkit\[inception\]"):
        InceptionFeatures()
