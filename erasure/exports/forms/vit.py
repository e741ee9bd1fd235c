"""A classifier's folder, which its own library opens."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from erasure.edit import Edit
from erasure.errors import ModelError
from erasure.exports.forms import HERE, Form, code
from erasure.exports.writing.saving import save_classifier
from erasure.files.records import read_record
from erasure.models.classifier.classifier import Classifier
from erasure.registry import EXPORTS

STEM = """
network.conv1 = nn.Conv2d(3, network.conv1.out_channels, 3, 1, 1, bias=False)
network.maxpool = nn.Identity()"""
TORCHVISION = """\
import torchvision
from safetensors.torch import load_file{more}

network = torchvision.models.{kind}({arguments}){stem}
network.load_state_dict(load_file("<this folder>/model.safetensors"))"""
SMALL_STEM = """\
import timm
from safetensors.torch import load_file{more}

network = timm.create_model("{kind}", {arguments}){stem}
network.load_state_dict(load_file("<this folder>/model.safetensors"))"""


@EXPORTS.register
class Vit(Form):
    """config.json and weights as timm, transformers or torchvision write them."""

    of: ClassVar[Literal["pipeline", "classifier", "edit"]] = "classifier"

    def write(self, edit: Edit, model: Classifier, folder: Path, dtype: torch.dtype) -> None:
        save_classifier(model, folder, dtype)

    def usage(self, edit: Edit, model: Classifier) -> list[str]:
        if model.library == "transformers":
            text = "from transformers import AutoModelForImageClassification\n\n"
            text += f'network = AutoModelForImageClassification.from_pretrained("{HERE}")'
        elif model.library == "timm" and _has_small_stem(model):
            text = SMALL_STEM.format(**_built(model))
        elif model.library == "timm":
            text = "import timm\n\n"
            text += f'network = timm.create_model("local-dir:{HERE}", pretrained=True)'
        else:
            text = TORCHVISION.format(**_built(model))
        first, count = edit.concepts[0], len(edit.concepts)
        what = first.name if first.kind == "samples" else f"{count} of its classes"
        return [
            f"A classifier that no longer knows {what}; the head keeps its size.",
            "", *code(text),
        ]  # fmt: skip

    def library(self, edit: Edit, model: Classifier) -> str:
        return model.library


def _config(model: Classifier) -> dict[str, Any]:
    """config.json of a timm or torchvision folder; empty where there is none."""
    if model.folder is None:
        return {}
    return read_record(model.folder / "config.json", dict[str, Any], error=ModelError)


def _has_small_stem(model: Classifier) -> bool:
    return _config(model).get("stem") == "cifar"


def _built(model: Classifier) -> dict[str, str]:
    """What builds the network: its kind, and arguments as Python writes them."""
    config = _config(model)
    given = {"num_classes": len(model.labels), **config.get("model_args", {})}
    is_small = config.get("stem") == "cifar"
    return {
        "more": "\nfrom torch import nn" if is_small else "",
        "stem": STEM if is_small else "",
        "kind": str(config["architecture"]).removeprefix("torchvision:"),
        "arguments": ", ".join(f"{name}={value!r}" for name, value in given.items()),
    }
