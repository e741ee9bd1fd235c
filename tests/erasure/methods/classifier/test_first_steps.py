"""What the plain methods ask of a classifier, once more: their first steps, and SSD's only one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from networks import image_folder, timm_folder
from torch import Tensor
from torch.nn import functional as F

from erasure.files.storage import read_lines
from erasure.forgetting import Data, Forgotten, forget
from erasure.methods.classifier import random_label
from erasure.methods.classifier.ssd import dampening, shuffled
from erasure.methods.shared.other_classes import other_labels
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.load import load_classifier
from erasure.requested import load_parts
from erasure.training.batches import picked
from erasure.training.run import Run
from erasure_datasets.labelled import Labelled


@pytest.fixture
def place(tmp_path: Path) -> Path:
    timm_folder(tmp_path / "model")
    image_folder(tmp_path / "images")
    return tmp_path


def ran(place: Path, method: str, **settings: Any) -> Forgotten:
    """Red is forgotten, in batches of four images."""
    return forget(
        str(place / "model"), method, [["red"]], out=place / "run", watch_every=0, batch_size=4,
        data=Data(str(place / "images"), images=8, test_images=2), **settings,
    )  # fmt: skip


def opened(place: Path) -> tuple[Classifier, Labelled, Labelled]:
    """The un-erased model, and the images to forget and to keep."""
    model = load_classifier(str(place / "model"))
    train, _ = load_parts(model, Data(str(place / "images"), images=8, test_images=2))
    return model, train.of([0]), train.of([1, 2, 3])


def first_batch(place: Path, part: Labelled, name: str) -> Labelled:
    places = picked(len(part), 4, 0, Run(place / "again"), f"request 0 {name}")
    return part.at(places.tolist())


def entropy(model: Classifier, part: Labelled, labels: Tensor | None = None) -> float:
    """Cross-entropy with the images' own labels, or with others."""
    with torch.no_grad():
        logits = model.forward(model.prepare(part.images))[1].double()
    return float(F.cross_entropy(logits, part.labels if labels is None else labels))


@pytest.mark.parametrize("method", ["gradient-ascent", "random-label", "fine-tune", "gs-lora"])
def test_the_first_loss_is_of_the_right_images_and_labels(
    method: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[tuple[Tensor, Tensor]]()

    def noted(labels: Tensor, *rest: Any) -> Tensor:
        given.append((labels, other_labels(labels, *rest)))
        return given[-1][1]

    monkeypatch.setattr(random_label, "other_labels", noted)
    settings: dict[str, dict[str, Any]] = {
        "random-label": {"retain_weight": 0.7},
        "fine-tune": {"l1": 1e-3, "epochs_without": 0},
        "gs-lora": {"augment": False, "prototypes": False, "forget_weight": 0.3, "bound": 2.0},
    }
    ran(place, method, epochs=1, **settings.get(method, {}))
    log = read_lines(place / "run" / "log.jsonl")[0]
    model, gone, kept = opened(place)
    gone, kept = first_batch(place, gone, "forget"), first_batch(place, kept, "retain")
    retain = {"retain": entropy(model, kept)}
    size = sum(
        float(weight.detach().double().abs().sum()) for weight in model.weights("all").values()
    )
    want = {
        "gradient-ascent": {"forget": -entropy(model, gone)},
        "fine-tune": {**retain, "l1": 1e-3 * size},
        "gs-lora": {
            **retain,
            "forget": 0.3 * (2.0 * torch.tensor(4.0).log().item() - entropy(model, gone)),
        },
    }
    if method == "random-label":
        right, wrong = given[0]
        assert torch.equal(right, gone.labels)
        want[method] = {"retain": 0.7 * retain["retain"], "forget": entropy(model, gone, wrong)}
    found = {name: log[name] for name in want[method]}
    assert found == pytest.approx(want[method], rel=1e-3)


def test_another_label_is_any_but_the_own(tmp_path: Path) -> None:
    labels = torch.arange(4).repeat(100)
    wrong = other_labels(labels, 4, Run(tmp_path))
    assert (wrong != labels).all()
    counts = torch.bincount(4 * labels + wrong, minlength=16).view(4, 4)
    assert (counts.fill_diagonal_(99) > 10).all()


def test_ssd_dampens_what_matters_most_to_the_forgotten(place: Path) -> None:
    """Every weight once more, from importances that are batches' squared gradients."""
    result = ran(place, "ssd", selection=1.2, dampening=0.8)
    model, gone, kept = opened(place)
    run, weights = Run(place / "again"), model.weights("all")

    def importance(part: Labelled, name: str) -> list[Tensor]:
        part = shuffled(part, run.generator_for(name))
        found = []
        for first in range(0, len(part), 4):
            batch = part.at(range(first, min(first + 4, len(part))))
            for weight in weights.values():
                weight.requires_grad_(True)
            logits = model.forward(model.prepare(batch.images))[1]
            gradients = torch.autograd.grad(
                F.cross_entropy(logits, batch.labels), list(weights.values())
            )
            found.append([gradient.square() for gradient in gradients])
        return [torch.stack(parts).mean(0) for parts in zip(*found, strict=True)]

    everything = importance(gone.and_then(kept), "request 0")
    forgotten = importance(gone, "request 0 forget")
    moved = 0
    for (name, weight), whole, own in zip(weights.items(), everything, forgotten, strict=True):
        want = weight.detach() * dampening(whole, own, 1.2, 0.8)
        far = (own - 1.2 * whole).abs() > 1e-3 * own  # elsewhere rounding may decide
        got = result.model.parameters()[name].detach()
        assert torch.allclose(got[far], want[far], rtol=1e-3, atol=1e-7), name
        moved += int((got != weight).sum())
    assert 0 < moved < sum(weight.numel() for weight in weights.values())
