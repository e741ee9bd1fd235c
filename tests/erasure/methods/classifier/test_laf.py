"""LAF: no label is looked at, and its losses are those of the paper."""

import math
from pathlib import Path

import pytest
import torch
from networks import image_folder, timm_folder

from erasure.errors import SettingError
from erasure.files.storage import read_lines
from erasure.methods.classifier.laf import LAF, apart, bounded
from erasure.methods.shared.feature_vae import FeatureVAE
from erasure.models.classifier.load import load_classifier
from erasure.requested import Data, Request, load_parts
from erasure.training.run import Run
from erasure_datasets.labelled import Labelled


@pytest.fixture
def place(tmp_path: Path) -> Path:
    timm_folder(tmp_path / "model")
    image_folder(tmp_path / "images")
    return tmp_path


def forgotten(place: Path, out: str, *, shift: int = 0, **settings: float) -> dict:
    """The tensors after LAF, of labels that are all shifted by so many."""
    model = load_classifier(str(place / "model"))
    (place / out).mkdir()
    train, _ = load_parts(model, Data(source=str(place / "images"), images=6))

    def other(part: Labelled) -> Labelled:
        return Labelled(part.images, (part.labels + shift) % 4, part.ids)

    request = Request(0, [0], [], [1, 2, 3], other(train.of([0])), other(train.of([1, 2, 3])))
    kind = LAF(epochs=2, batch_size=6, vae_epochs=1, **settings)  # type: ignore[arg-type]
    kind.forget(model, request, Run(place / out, seed=3))
    return model.tensors()


def test_permuted_labels_change_no_bit(place: Path) -> None:
    one, other = (forgotten(place, f"run {shift}", shift=shift) for shift in (0, 1))
    untouched = load_classifier(str(place / "model")).tensors()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
    moved = {name for name, tensor in one.items() if not torch.equal(tensor, untouched[name])}
    assert moved == {name for name in untouched if not name.startswith("head.")}


def test_repair_needs_labels(place: Path) -> None:
    """The control of the test above: with the repair, labels count, and only for the head."""
    one, other = (
        forgotten(place, f"run {shift}", shift=shift, repair_labels=1) for shift in (0, 1)
    )
    differ = {name for name, tensor in one.items() if not torch.equal(tensor, other[name])}
    assert differ == {"head.weight", "head.bias"}


def test_losses_at_the_start(place: Path) -> None:
    """No feature has moved: what is kept is near by 0, and log sum exp(0) is log n."""
    forgotten(place, "run", extraction_rate=1e-12)
    first = next(
        line for line in read_lines(place / "run" / "log.jsonl") if line["stage"] == "request 0"
    )
    assert first["near"] == pytest.approx(0, abs=1e-5)
    assert first["away"] == pytest.approx(-math.log(6), abs=1e-4)
    assert 1 <= first["kept"] < math.e
    assert -math.e < first["forgotten"] <= -1


def test_terms_against_float64() -> None:
    torch.manual_seed(0)
    e, before = torch.randn(2, 5, 7).unbind()
    for value, a, b in zip(apart(e, before), e.double(), before.double(), strict=True):
        cosine = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
        assert float(value) == pytest.approx(1 - cosine, rel=1e-5)
    assert bounded(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([1.0, math.exp(0.5)])
    vae, noise = FeatureVAE(7, 2), torch.randn(5, 2)
    again, divergence = vae(e, noise)
    code = vae.double().encoder(e.double())
    mean, spread = code[:, :2], code[:, 2:].exp()
    want = ((mean**2 + spread - 1 - spread.log()) / 2).sum(1)
    assert torch.allclose(divergence.double(), want, rtol=1e-4)
    drawn = vae.decoder(mean + spread.sqrt() * noise)
    assert torch.allclose(again.double(), drawn, atol=1e-5)
    error = ((vae.decoder(mean) - e) ** 2).mean(1)
    assert torch.allclose(vae.error(e.double()), error)


def test_the_head_alone_has_no_features(place: Path) -> None:
    model = load_classifier(str(place / "model"))
    train, _ = load_parts(model, Data(source=str(place / "images"), images=2))
    request = Request(0, [0], [], [1, 2, 3], train.of([0]), train.of([1, 2, 3]))
    with pytest.raises(SettingError, match=r"LAF\.select must match weights outside of the head"):
        LAF(select="head").forget(model, request, Run(place / "run"))
