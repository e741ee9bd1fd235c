"""The perceptual distance against loops, its sketch against itself, LPIPS against its formula."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision.models import squeezenet1_1

from erasure.errors import ModelError
from erasure.models.built_in import POCKET
from erasure_datasets.canvas import PocketCanvas
from evaluation.metrics.clip_score import PocketClip
from evaluation.metrics.perceptual import lpips, perceptual_distance, sketch, unit_features


def layers(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, c, s, s, generator=generator) for c, s in ((4, 5), (7, 2))]


def test_distance_agrees_with_loops() -> None:
    first, second = layers(0), layers(1)
    expected = []
    for n in range(3):
        means = []
        for a, b in zip(first, second, strict=True):
            apart = [
                1 - torch.cosine_similarity(a[n, :, y, x], b[n, :, y, x], 0)
                for y in range(a.shape[2])
                for x in range(a.shape[3])
            ]
            means.append(2 * torch.stack(apart).mean())
        expected.append(torch.stack(means).mean())
    # |u - u'|^2 = 2 (1 - cos) for vectors of length one; float32
    torch.testing.assert_close(perceptual_distance(first, second), torch.stack(expected))
    assert perceptual_distance(first, first).max() == 0
    opposite = [-layer for layer in first]
    torch.testing.assert_close(perceptual_distance(first, opposite), torch.full((3,), 4.0))


def test_sketches_keep_distances_between_pictures() -> None:
    data = PocketCanvas("test", 1)
    images = torch.stack([data[row][0] for row in range(0, 256, 4)])
    seen = unit_features(PocketClip(POCKET).layers(images))
    torch.testing.assert_close(seen.norm(dim=1), torch.ones(len(images)))
    short = sketch(seen, 128)
    whole = (seen - seen.roll(1, 0)).square().sum(1)
    kept = (short - short.roll(1, 0)).square().sum(1)
    assert float((kept / whole - 1).std()) < 0.2  # sqrt(2 / 128) = 0.125 for each
    assert float(kept.mean() / whole.mean()) == pytest.approx(1, abs=0.05)  # 64 of them
    assert torch.equal(short, sketch(seen, 128))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torchvision's, and no network."""

    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_lpips_is_the_weighted_sum_over_layers(hub: Path) -> None:
    torch.manual_seed(0)
    torch.save(squeezenet1_1(weights=None).state_dict(), hub / "squeezenet1_1-b8a52dc0.pth")
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    others = images.flip(0)
    net = LearnedPerceptualImagePatchSimilarity("squeeze", normalize=True).net
    expected = torch.zeros(2)
    first, second = (net.net(net.scaling_layer(x / 127.5 - 1)) for x in (images, others))
    for a, b, lin in zip(first, second, net.lins, strict=True):
        apart = [x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt() for x in (a, b)]
        weighted = torch.einsum(
            "nchw,c->nhw", (apart[0] - apart[1]).square(), lin.model[-1].weight.flatten()
        )
        expected += weighted.mean((1, 2)).detach()
    torch.testing.assert_close(lpips(images, others, "squeeze"), expected)


def test_lpips_without_weights(hub: Path) -> None:
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    with pytest.raises(ModelError, match=r"LPIPS needs torchvision's alex weights.*no network"):
        lpips(images, images, "alex")
    assert not list(hub.iterdir())
