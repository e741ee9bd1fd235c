"""Beside a retrained model: probes by block and the signed leak, on miniatures."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import image_folder, resnet_folder, timm_folder
from PIL import Image
from torch import Tensor

from erasure.forgetting import Data, forget
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.load import load_classifier
from erasure.opening import open_classifier
from erasure.requested import load_parts
from erasure_datasets.labelled import Labelled
from evaluation import against_retrained
from evaluation.evaluating import evaluate
from evaluation.metrics.forgetting import membership
from evaluation.metrics.membership import privacy_leak, support_vectors
from evaluation.reports import plots
from evaluation.reports.reporting import report

NONE_LEFT = "no other training image is at hand"
MADE = {"batch_size": 8, "watch_every": 0}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A network, and images of noise, which no features tell for sure; six a class held out."""
    timm_folder(tmp_path / "model")
    chance = np.random.default_rng(0)
    for file in sorted(image_folder(tmp_path / "images", per_class=30).rglob("*.png")):
        with Image.open(file) as plain:
            size = plain.size
        noise = chance.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(file)
    return tmp_path


def test_a_run_stands_beside_the_retrained_model(place: Path) -> None:
    data = Data(source=str(place / "images"), images=8, test_images=6)
    model = str(place / "model")
    for name, method, settings in (
        ("gold", "retrain", {"steps": 6}),
        (
            "head",
            "fine-tune",
            {"epochs": 2, "epochs_without": 0, "learning_rate": 0.05, "select": "head"},
        ),
        ("other", "ssd", {"selection": 1.0}),
    ):
        classes = ["grey"] if name == "other" else ["red"]
        forget(model, method, [classes], out=place / name, data=data, **MADE, **settings)
    record = evaluate(place / "head", reference=place / "gold")
    stages = ["blocks.0", "blocks.1", "head"]
    assert {who: list(own) for who, own in record["probes"].items()} == dict.fromkeys(
        ("original", "edited", "retrained", "random"), stages
    )
    # only the answer was changed: the features tell the class as they did
    assert record["probes"]["edited"] == record["probes"]["original"]
    assert record["probes"]["retrained"] != record["probes"]["original"]
    for who, scores in (("edited", record["scores"]), ("retrained", record["retrained"])):
        highest = max(record["probes"][who].values())
        assert scores["probe"]["value"] == pytest.approx(highest, abs=1e-4)
    assert record["scores"]["probe"]["n"] == 24
    assert record["retrained"]["PrivLeak"]["value"] == 0
    assert {"PrivLeak", "distance"} <= record["scores"].keys() & record["baseline"].keys()
    page = report([place / "head"], place / "one.html")[0].read_text()
    for word in ("Probes by block", "random weights", ", retrained ", "blocks.1"):
        assert word in page
    # a class that is asked for as forgotten, though it was kept, is not among the kept as well
    asked = evaluate(place / "head", reference=place / "gold", concepts=["green"])
    assert asked["scores"]["probe"]["n"] == 6 + 2 * 6
    # what the reference does not stand for is left out, and the distance stays
    beside = evaluate(place / "head", reference=place / "other")
    assert "distance" in beside["scores"]
    assert not {"probe", "PrivLeak"} & beside["scores"].keys()
    assert "forgot something else" in beside["left_out"]["probe"]
    assert not {"probe", "PrivLeak"} & evaluate(place / "head")["left_out"].keys()


def answers(learnt: Labelled) -> Callable[..., Tensor]:
    """Probabilities that go by the picture and by the model's weights, and tell any two apart.

    Every model is surer of the pictures that were learnt.
    """
    known = {
        image.numpy().tobytes(): label
        for image, label in zip(learnt.images, learnt.labels, strict=True)
    }

    def said(model: Classifier, images: Tensor, *_: int) -> Tensor:
        bits = next(iter(model.weights("head").values())).detach().numpy().tobytes()
        generator = torch.Generator().manual_seed(zlib.crc32(bits))
        images = images[torch.arange(len(images))]
        pixels = images.flatten(1).float() / 255 - 0.5
        logits = pixels @ torch.randn(pixels.shape[1], 4, generator=generator) / 10
        for row, image in enumerate(images):
            if (label := known.get(image.numpy().tobytes())) is not None:
                logits[row, label] += 2
        return logits.softmax(1)

    return said


def test_every_figure_is_of_its_own_model_and_images(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both tables once more from three models that are opened here, part by part."""
    data = Data(source=str(place / "images"), images=20, test_images=10)
    runs = {"scores": "random-label", "retrained": "retrain"}
    for name, method in runs.items():
        step = {"steps": 1} if method == "retrain" else {"epochs": 1, "learning_rate": 1e-3}
        forget(str(place / "model"), method, [["red"]], out=place / name, data=data, **MADE, **step)
    models = {"baseline": load_classifier(str(place / "model"))}
    models |= {name: open_classifier(place / name) for name in runs}
    forgotten, kept, unseen, held_out = (
        part.of(classes)
        for part in load_parts(models["baseline"], data)
        for classes in ([0], [1, 2, 3])
    )
    said = answers(kept)
    monkeypatch.setattr(Classifier, "predict", said)
    monkeypatch.setattr(against_retrained, "LEAST", 1000)  # the probes have their own test
    gold = place / "retrained"
    told = evaluate(place / "scores", reference=gold)
    table = evaluate(place / "scores", protocol="random-forgetting", reference=gold)

    def right(who: str, part: Labelled) -> float:
        return float((said(models[who], part.images).argmax(1) == part.labels).float().mean())

    def sure(who: str, *parts: Labelled) -> list[Tensor]:
        return [
            said(models[who], part.images)[torch.arange(len(part)), part.labels] for part in parts
        ]

    def values(record: dict, who: str, *names: str) -> dict[str, float]:
        return {name: record[who][name]["value"] for name in names}

    for who in models:
        attack = support_vectors(*sure(who, kept, held_out, forgotten)).value
        assert values(table, who, "UA", "RA", "TA", "MIA") == pytest.approx({
            "UA": 1 - right(who, forgotten), "RA": right(who, kept), "TA": right(who, held_out),
            "MIA": attack,
        })  # fmt: skip
    for who in ("baseline", "scores"):
        leaks = [
            privacy_leak(*sure(who, forgotten, part), *sure("retrained", forgotten, part))
            for part in (held_out, unseen)
        ]
        assert table[who]["leak"]["value"] == pytest.approx(leaks[0].value)
        assert values(told, who, "Acc_f", "Acc_r", "MIA", "PrivLeak") == pytest.approx({
            "Acc_f": right(who, unseen), "Acc_r": right(who, held_out),
            "MIA": membership(*sure(who, kept, held_out, forgotten)).value,
            "PrivLeak": leaks[1].value,
        })  # fmt: skip
    drop = max(right("baseline", unseen) - right("scores", unseen), 0.0)
    left = right("scores", held_out)
    assert told["scores"]["H"]["value"] == pytest.approx(2 * drop * left / (drop + left))


def test_single_images_leave_the_probe_out(tmp_path: Path) -> None:
    resnet_folder(tmp_path / "model")
    data = Data(source=str(image_folder(tmp_path / "images")), images=8, test_images=2)
    ids = ["red/1.png", "blue/2.png"]
    forget(str(tmp_path / "model"), "random-label", samples=ids, out=tmp_path / "run", data=data,
           epochs=1, learning_rate=1e-3, **MADE)  # fmt: skip
    record = evaluate(tmp_path / "run", reference=tmp_path / "run")
    assert record["scores"]["PrivLeak"]["value"] == 0
    assert "single images" in record["left_out"]["probe"]
    assert record["left_out"].keys() == {"probe"}  # H is none of single images' scores
    assert "probes" in record


def test_nothing_else_at_hand_leaves_out_what_needs_it(tmp_path: Path) -> None:
    resnet_folder(tmp_path / "model")
    data = Data(source=str(image_folder(tmp_path / "images")), images=2, test_images=2)
    ids = [str(place) for place in range(8)]  # every image
    forget(str(tmp_path / "model"), "random-label", samples=ids, out=tmp_path / "run", data=data,
           epochs=1, learning_rate=1e-3, keep_by="nothing", **MADE)  # fmt: skip
    record = evaluate(tmp_path / "run")
    assert record["scores"].keys() == {"Acc_f", "Acc_t"}
    assert record["left_out"] == dict.fromkeys(("Acc_r", "MIA"), NONE_LEFT)


def score(value: float, low: float | None = None) -> dict:
    return {"value": value, "low": low, "high": None}


@pytest.mark.parametrize(("edited", "place"), [(0.9, 1.0), (0.7, 0.5), (0.5, 0.0), (0.4, -0.25)])
def test_a_probe_stands_between_retrained_and_untouched(edited: float, place: float) -> None:
    row = {
        "scores": {"probe": score(edited)}, "baseline": {"probe": score(0.9, 0.8)}, "floor": {},
        "retrained": {"probe": score(0.5)},
    }  # fmt: skip
    found = plots.from_gold([row])
    assert found is not None
    whole = found["untouched"] - found["gold"]
    (point,) = found["lines"][0]["points"]
    assert (point["x"] - found["gold"]) / whole == pytest.approx(place, abs=0.01)
    # an un-erased model that cannot be told from the retrained one spans no way
    row["baseline"] = {"probe": score(0.9, 0.4)}
    assert plots.from_gold([row]) is None
