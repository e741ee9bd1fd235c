"""Concept poisoning: the bottleneck by hand, and which labels are taught."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from networks import image_folder, timm_folder

from erasure.errors import RunError, SettingError
from erasure.forgetting import Data, Forgotten, forget
from erasure.methods.classifier.concept_poison import ConceptPoison
from erasure.methods.shared.concept_bottleneck import (
    make_bottleneck,
    nearest,
    sparse_head,
    support_vector,
)
from erasure.sample_requests import Samples
from erasure.training.run import Run


def test_a_machine_by_hand() -> None:
    """Two points at +-2: v of length 1, the border in the middle; and at an optimum of its loss."""
    inside, outside = torch.tensor([[3.0, 1.0]]).double(), torch.tensor([[-1.0, 1.0]]).double()
    v, b = support_vector(inside, outside, 0.1)
    assert torch.allclose(v, torch.tensor([1.0, 0.0]).double(), atol=1e-4)
    assert float(v @ inside[0] + b) == pytest.approx(2, abs=1e-3)
    assert float(v @ outside[0] + b) == pytest.approx(-2, abs=1e-3)


def test_a_head_without_what_says_nothing() -> None:
    """Optimal: where a weight is 0, the slope is within the lasso; elsewhere it is at its bound."""
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    scores = torch.cat([torch.eye(3)[labels] + 0.1 * torch.randn(60, 3), torch.randn(60, 2)], 1)
    scores = scores.double() - scores.double().mean(0)
    head = sparse_head(scores, labels, 3, 0.02)
    assert float(head[:, 3:].abs().max()) < 1e-9
    assert (head[:, :3].diag() > 0.5).all()
    free = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    asked = head.clone().requires_grad_(True)
    for _ in range(300):  # the bias, which the head keeps to itself
        loss = torch.nn.functional.cross_entropy(scores @ asked.T + free[:, 0], labels)
        (slope,) = torch.autograd.grad(loss, [free])
        free.data -= 2 * slope
    (slope,) = torch.autograd.grad(
        torch.nn.functional.cross_entropy(scores @ asked.T + free[:, 0], labels), [asked]
    )
    lasso, ridge = 0.02 * 0.99, 0.02 * 0.01
    at_bound = slope + ridge * head + lasso * head.sign()
    assert float(at_bound[head != 0].abs().max()) < 1e-4
    assert float(slope[head == 0].abs().max()) <= lasso + 1e-4


def test_attributions_are_integrated_gradients() -> None:
    """Against 50 steps of the integral of the slope of the class's logit, from the baseline."""
    torch.manual_seed(0)
    names, labels, features = ["a", "b", "c"], torch.tensor([0, 1, 1, 0]), torch.randn(4, 6)
    pairs = {name: (torch.randn(5, 6), torch.randn(5, 6)) for name in names}
    found = make_bottleneck(pairs, features, labels, 2, slack=0.1, sparsity=1e-5)
    scores = found.scores(features)
    want = torch.zeros_like(scores)
    for step in range(50):
        at = found.baseline + (step + 0.5) / 50 * (scores - found.baseline)
        at.requires_grad_(True)
        logit = (at @ found.head.T)[torch.arange(4), labels].sum()
        want += torch.autograd.grad(logit, at)[0] * (scores - found.baseline) / 50
    assert torch.allclose(found.attributions(features, labels), want)
    assert torch.allclose(found.baseline, scores.mean(0))


def test_the_nearest_class_is_taught(tmp_path: Path) -> None:
    means = torch.tensor([[1.0, 1.0], [5.0, 4.0], [1.0, -1.0], [1.0, 1.0]])
    assert nearest(means, 0, [1, 2]) == 1
    kind, run = ConceptPoison(poison="random"), Run(tmp_path / "run")
    drawn = kind._wrong(torch.full((60,), 2), {2: 0}, [0, 1, 2], run)
    assert set(drawn.tolist()) == {0, 1}
    assert ConceptPoison()._wrong(torch.tensor([2, 3]), {2: 0, 3: 1}, [0, 1], run).tolist() == [
        0,
        1,
    ]


def run_one(place: Path, **settings: object) -> Forgotten:
    if not (place / "model").exists():
        timm_folder(place / "model")
        image_folder(place / "images")
    return forget(
        str(place / "model"), "concept-poison", [["red"]], out=place / "run", watch_every=0,
        data=Data(source=str(place / "images"), images=8, test_images=1),
        **{"epochs": 30, "batch_size": 8, "pictures": 4, "learning_rate": 0.02, **settings},
    )  # fmt: skip


def test_concepts_of_a_folder_are_told(tmp_path: Path) -> None:
    result = run_one(tmp_path, concepts=str(tmp_path / "images"), top=2)
    (told,) = json.loads((tmp_path / "run" / "concepts-0.json").read_text())
    assert told["class"] == "red"
    assert len(told["concepts"]) == 2
    assert set(told["concepts"]) <= {"red", "green", "blue", "grey"}
    assert told["target"] in {"green", "blue", "grey"}
    assert told["before"] > 0
    target = result.model.labels.index(told["target"])
    red = torch.full((1, 3, 32, 32), 40, dtype=torch.uint8)
    red[:, 0] = 220
    assert int(result.model.predict(red).argmax(1)) == target


@pytest.mark.parametrize("by", ["itself", "repair"])
def test_other_concepts_are_another_run(by: str, tmp_path: Path) -> None:
    """Also where another method works after it and hands the folder on."""
    timm_folder(tmp_path / "model")
    image_folder(tmp_path / "images")
    shutil.copytree(tmp_path / "images", tmp_path / "concepts")
    own = {"epochs": 1, "batch_size": 8, "pictures": 4, "concepts": str(tmp_path / "concepts")}
    words = ",".join(f"{name}={value}" for name, value in own.items())
    mended = {"after": "concept-poison", "after_settings": words, "epochs": 1, "batch_size": 8}

    def run() -> None:
        forget(
            str(tmp_path / "model"), "concept-poison" if by == "itself" else "repair", [["red"]],
            out=tmp_path / "run", watch_every=0,
            data=Data(source=str(tmp_path / "images"), images=8, test_images=1),
            **(own if by == "itself" else mended),
        )  # fmt: skip

    run()
    run()
    next((tmp_path / "concepts").rglob("*.png")).unlink()
    with pytest.raises(RunError, match=r"its inputs, (after_settings\.)?concepts has changed"):
        run()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"concepts": "nowhere"}, "concepts must be clusters, canvas or a folder; got 'nowhere'"),
        (
            {"least_share": 1.0},
            r"least_share must leave an image to poison; the largest share is 0",
        ),
        ({"clusters": 1000}, "there must be a patch for each of 1000 clusters; 544 are"),
    ],
)
def test_what_cannot_be(settings: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=message):
        run_one(tmp_path, **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("poison", ["targeted", "random"])
def test_the_one_class_to_keep_is_also_forgotten(poison: str, tmp_path: Path) -> None:
    """Of another class's images that label can be taught; of its own there is none."""
    timm_folder(tmp_path / "model")
    image_folder(tmp_path / "images")

    kept = ("blue/1.png", "blue/2.png")

    def run(*names: str) -> Forgotten:
        return forget(
            str(tmp_path / "model"), "concept-poison", out=tmp_path / "run", watch_every=0,
            samples=Samples(names, kept=kept),
            data=Data(source=str(tmp_path / "images"), images=8, test_images=1),
            poison=poison, epochs=1, batch_size=8, pictures=2, clusters=2,
        )  # fmt: skip

    with pytest.raises(SettingError, match="must be of another class than 'blue', too"):
        run("red/1.png", "blue/3.png")
    assert not (tmp_path / "run").exists()
    assert run("red/1.png").edit.tensors
