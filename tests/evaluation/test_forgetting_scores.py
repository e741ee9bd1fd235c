"""Class forgetting scores: the figures by hand, and the two protocols on a miniature."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "erasure"))
from vits import image_folder, timm_folder

from erasure.errors import SettingError
from erasure.forgetting import Data, forget
from evaluation.evaluate import evaluate
from evaluation.metrics.forgetting import accuracy, distance, h_mean, membership


def test_figures_by_hand() -> None:
    said = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    labels = torch.tensor([0, 0, 1, 1])
    assert accuracy(said, labels, [0]).value == 0.5
    assert accuracy(said, labels, [0, 1]).value == 0.5
    assert accuracy(said, labels, [1]).n == 2
    assert h_mean(1.0, 0.5) == pytest.approx(2 / 3)
    assert h_mean(0.0, 0.0) == 0.0
    assert distance(said, said.flip(1)).value == pytest.approx((0.8 + 0.6 + 0.2 + 0.4) / 4)
    members, others = torch.tensor([0.9, 0.8, 0.95]), torch.tensor([0.5, 0.6, 0.85])
    assert membership(members, others, torch.tensor([0.1, 0.79, 0.99, 0.8])).value == 0.5


def test_both_protocols(tmp_path: Path) -> None:
    timm_folder(tmp_path / "model")
    data = Data(source=str(image_folder(tmp_path / "images")), images=8, test_images=2)
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 0.05}
    for name, tasks in (("one", [["red"]]), ("two", [["red"], ["blue"]])):
        forget(
            str(tmp_path / "model"), "random-label", tasks, out=tmp_path / name, data=data,
            watch_every=2, **settings,
        )  # fmt: skip
    one = evaluate(tmp_path / "one", reference=tmp_path / "one")
    assert one["protocol"] == "class-forgetting"
    assert one["scores"]["distance"]["value"] == 0.0 < one["baseline"]["distance"]["value"]
    assert {"Acc_f", "Acc_r", "H", "MIA"} <= one["scores"].keys()
    two = evaluate(tmp_path / "two")
    assert two["protocol"] == "continual"
    assert two["scores"]["Acc_o"]["n"] == 2
    last = two["after"][-1]
    assert two["scores"]["Acc_r"]["value"] == pytest.approx(last["Acc_r"])
    assert two["scores"]["Acc_f"]["value"] == pytest.approx(last["Acc_f"])
    assert {point["request"] for point in two["curve"]} == {0, 1}
    assert two["worst"]["Acc_r"] == min(point["Acc_r"] for point in two["curve"])
    assert json.loads((tmp_path / "two" / "scores" / "continual.json").read_text()) == two
    with pytest.raises(SettingError, match="the protocol pocket is for runs of `erasure erase`"):
        evaluate(tmp_path / "one", protocol="pocket")
