"""The contract of forgetting methods on every kind of classifier: it works, or refuses in a line.

A method of a new file is in it by itself.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from classifier_matrix import lines, tried
from classifier_networks import MINIATURES

from erasure.registry import METHODS

NAMES = METHODS.names("classifier")
KINDS = [kind for kind in MINIATURES if kind != "torchvision ShuffleNet"]  # many small layers
QUICK = ("timm ResNet-18, CIFAR stem", "timm Swin")  # a convolutional one and a transformer
ALWAYS = ("fine-tune", "gradient-ascent", "random-label", "salun", "ssd", "retrain")
BLOCKLESS = "this classifier has no transformer blocks"


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k in QUICK else [pytest.mark.slow]) for k in KINDS]
)
def test_every_method_works_or_says_why_not(kind: str, tmp_path: Path) -> None:
    MINIATURES[kind](tmp_path / "model")
    asked = {name: "samples" if name == "s3t" else "class" for name in NAMES}
    told = {name: tried(name, tmp_path / "model", asked[name], tmp_path / name) for name in NAMES}
    assert {name: told[name] for name in ALWAYS} == dict.fromkeys(ALWAYS, "")
    whys = {"s3t": "place must be ffn"} if kind == "torchvision ViT" else {}
    if "ViT" not in kind and "Swin" not in kind:
        whys = dict.fromkeys(("gs-lora", "rocr", "s3t"), BLOCKLESS)
        whys["blindspot"] = "Blindspot.attention_weight must be 0 for this classifier"
    refused = {name: why for name, why in told.items() if why}
    assert refused.keys() == whys.keys(), refused  # a refusal for another reason is a fault
    assert all(refused[name].startswith(why) for name, why in whys.items()), refused


@pytest.mark.slow
def test_single_images_too(tmp_path: Path) -> None:
    MINIATURES["timm ResNet-18, CIFAR stem"](tmp_path / "model")
    told = {name: tried(name, tmp_path / "model", "samples", tmp_path / name) for name in NAMES}
    assert {name: told[name] for name in ALWAYS} == dict.fromkeys(ALWAYS, "")
    assert "forgets whole classes" in told["gs-lora"]


def test_the_table_numbers_each_refusal_once() -> None:
    cells = {("a", "X", "class"): "", ("a", "X", "samples"): "Why.",
             ("b", "X", "class"): "Why.", ("b", "X", "samples"): "Why."}  # fmt: skip
    table = lines(cells)
    assert table[2:4] == ["| a | yes / no (1) |", "| b | no (1) |"]
    assert table[-1] == "1. Why."
