"""Blindspot: its loss, and that the blind model has seen what is kept alone."""

from pathlib import Path

import pytest
import torch
from networks import image_folder, resnet_folder, timm_folder

from erasure.errors import SettingError
from erasure.files.storage import read_lines
from erasure.methods.classifier import blindspot
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.load import load_classifier
from erasure.requested import Data, Request, load_parts
from erasure.training.run import Run


def asked(folder: Path, build) -> tuple[Classifier, Request]:
    """A miniature, and a request of eight images to forget."""
    model = load_classifier(str(build(folder / "model")))
    image_folder(folder / "images")
    (folder / "run").mkdir()
    train, _ = load_parts(model, Data(source=str(folder / "images"), images=8))
    return model, Request(0, [0], [], [1, 2, 3], train.of([0]), train.of([1, 2, 3]))


def test_loss_against_float64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step's, over all eight images, of a blind model that says what is told here."""
    model, request = asked(tmp_path, timm_folder)
    torch.manual_seed(0)
    logits, maps = torch.randn(8, 4), [torch.rand(8, 17) for _ in range(2)]
    seen: list[set[int]] = []

    def told(blind: Classifier, part, *_, **__) -> None:
        assert blind.network is not model.network
        seen.append(set(part.labels.tolist()))

    monkeypatch.setattr(blindspot, "learn", told)
    monkeypatch.setattr(blindspot, "answers", lambda *_: (logits, maps))
    own, own_maps = answers_in_float64(model, request)
    kind = blindspot.Blindspot(batch_size=8, forget_share=0.25, attention_weight=3.0)
    kind.forget(model, request, Run(tmp_path / "run"))
    first = read_lines(tmp_path / "run" / "log.jsonl")[0]
    b = logits.double().softmax(1)
    divergence = (b * (b.log() - own.log_softmax(1))).sum(1).mean()
    apart = sum(((a - m.double()) ** 2).mean() for a, m in zip(own_maps, maps, strict=True))
    assert seen == [{1, 2, 3}]
    assert first["forget"] == pytest.approx(0.25 * float(divergence), rel=1e-3)
    assert first["attention"] == pytest.approx(0.25 * 3.0 * float(apart), rel=1e-3)


def answers_in_float64(model: Classifier, request: Request) -> tuple[torch.Tensor, list]:
    """Logits and attention maps of the images to forget, computed by hand."""
    network = load_classifier(str(model.folder)).network.double()
    x = model.prepare(request.forget.images).double()
    with torch.no_grad():
        tokens, maps = network._pos_embed(network.patch_embed(x)), []
        for block in network.blocks:
            tokens = block(tokens)
            squares = (tokens**2).mean(2)
            maps.append(squares / (squares**2).sum(1, keepdim=True).sqrt())
        return network.forward_head(network.norm(tokens)), maps


def test_no_blocks_no_maps(tmp_path: Path) -> None:
    model, request = asked(tmp_path, resnet_folder)
    with pytest.raises(SettingError, match=r"attention_weight must be 0 for .* no transformer"):
        blindspot.Blindspot().forget(model, request, Run(tmp_path / "run"))
    assert not model.originals
