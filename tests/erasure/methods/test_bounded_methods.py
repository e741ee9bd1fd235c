"""NPO, IHL, FLAT and what holds the rest without its images: losses in float64, bad input."""

import math
from pathlib import Path

import pytest
import torch
from networks import LABELS, image_folder, timm_folder
from torch import Tensor

from erasure.config import Value
from erasure.errors import SettingError
from erasure.forgetting import Data, Forgotten, forget
from erasure.methods.classifier import flat, ihl, npo
from erasure.methods.shared.forget_and_keep import ForgetAndKeep
from erasure.methods.shared.other_classes import alternatives, hinge
from erasure.methods.shared.retain_terms import (
    Answers,
    Term,
    features_stay,
    relations_stay,
    weights_stay,
)
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.load import load_classifier
from erasure.registry import METHODS
from erasure.requested import Request, load_parts
from erasure.training.run import Run

SHORT: dict[str, Value] = {"epochs": 2, "batch_size": 8, "learning_rate": 0.05}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    timm_folder(tmp_path / "model")
    image_folder(tmp_path / "images")
    return tmp_path


@pytest.fixture
def model(place: Path) -> Classifier:
    return load_classifier(str(place / "model"))


@pytest.fixture
def request_(place: Path, model: Classifier) -> Request:
    """Red is forgotten, green was before."""
    train, _ = load_parts(model, Data(source=str(place / "images"), images=4))
    return Request(1, [0], [1], [2, 3], train.of([0]), train.of([2, 3]))


def answers(model: Classifier, logits: Tensor, forgotten: Tensor) -> Answers:
    """As the model gives them for pictures of noise, but with these logits."""
    x = torch.randn(len(logits), 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return Answers(model, x, model.forward(x)[0], logits, forgotten, forgotten[:0])


def term_of(
    method: ForgetAndKeep, module: object, model: Classifier, request: Request, place: Path
) -> Term:
    """The forget term that a method hands over."""
    found: list[Term] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "forget_and_keep", lambda *given: found.append(given[3]))
        method.forget(model, request, Run(place / "unused"))  # type: ignore[attr-defined]
    return found[0]


def shares(logits: Tensor) -> list[list[float]]:
    return logits.double().softmax(1).tolist()


def test_forget_terms_against_float64(model: Classifier, request_: Request, place: Path) -> None:
    """Of two red images; green was forgotten before and is no answer for either."""
    logits = torch.tensor([[2.0, 3.0, 0.5, -1.0], [-1.0, 0.0, 0.2, 1.5]])
    said = answers(model, logits, torch.tensor([0, 0]))
    now, before = shares(logits), shares(said.original()[1])
    template = [2 if row[2] > row[3] else 3 for row in before]
    want = {
        "npo": sum(
            2 / 0.5 * math.log(1 + (p[0] / q[0]) ** 0.5) for p, q in zip(now, before, strict=True)
        )
        / 2,
        "ihl": sum(1 + p[0] - max(p[2], p[3]) for p in now) / 2,
        "flat": sum(math.exp(p[0] - 1) - p[t] for p, t in zip(now, template, strict=True)) / 2,
    }
    kinds = {
        "npo": (npo.NPO(beta=0.5), npo), "ihl": (ihl.IHL(), ihl),
        "flat": (flat.FLAT(divergence="kl"), flat),
    }  # fmt: skip
    for name, (method, module) in kinds.items():
        got = term_of(method, module, model, request_, place)(said)
        assert float(got) == pytest.approx(want[name], rel=1e-5), name


def test_only_kept_classes_may_be_said_instead(request_: Request) -> None:
    allowed = alternatives(torch.tensor([0, 2]), request_, len(LABELS))
    assert allowed.tolist() == [[False, False, True, True], [False, False, False, True]]
    sure_of_green = torch.tensor([[0.0, 50.0, 0.0, 0.0]])
    assert float(hinge(sure_of_green, torch.tensor([0]), request_)) == pytest.approx(1.0)


def test_features_are_free_along_the_forgotten_row_alone(model: Classifier) -> None:
    term = features_stay(model, [0])
    row = model.parameters()["head.weight"].detach()[0]
    said = answers(model, torch.zeros(2, 4), torch.tensor([0, 0]))
    across = torch.randn(len(row), generator=torch.Generator().manual_seed(0))
    across -= across @ row / row.square().sum() * row

    def moved(by: Tensor) -> float:
        gone = Answers(model, said.x, said.features + by, said.logits, said.forgotten, said.kept)
        return float(term(gone))

    assert moved(3 * row) < 1e-9
    want = (across.double().square().sum() / said.features.double().square().sum(1)).mean()
    assert moved(across + row) == pytest.approx(float(want), rel=1e-4)


def test_relations_and_weights_against_float64(model: Classifier) -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    said = answers(model, logits, torch.zeros(5, dtype=torch.long))
    want = 0.0
    for c in (1, 3):
        was, now = ((x[:, c].double() / 0.5).softmax(0) for x in (said.original()[1], logits))
        want += float((was * (was / now).log()).sum()) / 2
    assert float(relations_stay([1, 3], 0.5)(said)) == pytest.approx(want, rel=1e-4)
    shifted = answers(model, said.original()[1] + torch.tensor([0.0, 7.0, 0.0, -2.0]), said.kept)
    assert float(relations_stay([1, 3], 0.5)(shifted)) == pytest.approx(0.0, abs=1e-6)
    weights = model.weights("head")
    term = weights_stay(weights)
    with torch.no_grad():
        weights["head.bias"] += 0.5
    assert float(term(said)) == pytest.approx(4 * 0.25)


def forgotten(place: Path, images: Path, out: str, method: str, **more: Value) -> Forgotten:
    return forget(
        str(place / "model"), method, [["red"]], out=place / out, watch_every=0,
        data=Data(source=str(images), images=8, test_images=2), **{**SHORT, **more},
    )  # fmt: skip


def with_red_alone(place: Path) -> Path:
    """Training images of red and no other class; test images of all."""
    for part, labels in (("train", ["red"]), ("test", LABELS)):
        (place / "red" / part).mkdir(parents=True)
        for label in labels:
            (place / "red" / part / label).symlink_to(place / "images" / label)
    return place / "red"


@pytest.mark.filterwarnings("ignore:.*has no images of")
def test_without_images_of_the_rest(place: Path) -> None:
    alone = with_red_alone(place)
    with pytest.raises(SettingError, match="no retain images"):
        forgotten(place, alone, "refused", "random-label")
    done = forgotten(place, alone, "features", "random-label", keep_by="features")
    assert not [name for name in done.edit.shapes() if name.startswith("head.")]
    pulled, free = (
        forgotten(place, alone, name, "random-label", keep_by="weights", retain_weight=weight)
        for name, weight in (("pulled", 5.0), ("free", 0.0))
    )
    gone = [sum(d for _, d, _ in one.edit.moved.values()) for one in (pulled, free)]
    assert gone[0] < 0.8 * gone[1]
    with pytest.raises(SettingError, match="select must name more than the head"):
        forgotten(place, alone, "x", "random-label", keep_by="features", select="head")


def test_relations_are_for_classes_without_images(place: Path) -> None:
    with pytest.raises(SettingError, match="relation_weight has no effect: every kept class"):
        forgotten(place, place / "images", "refused", "salun", relation_weight=1.0)
    assert not (place / "refused").exists()
    data = Data(source=str(place / "images"), images=8, test_images=2, missing=("blue",))
    kind = METHODS.get("classifier", "ihl")
    assert kind(relation_weight=1.0).needs_retain
    forget(
        str(place / "model"), "ihl", [["red"]], out=place / "run", watch_every=0, data=data,
        relation_weight=1.0, **SHORT,
    )  # fmt: skip
    assert '"relation"' in (place / "run" / "log.jsonl").read_text()
