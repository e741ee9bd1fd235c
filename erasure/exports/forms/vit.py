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

TORCHVISION = """\
import torchvision
from safetensors.torch import load_file

network = torchvision.models.{kind}({arguments})
network.load_state_dict(load_file("<this folder>/model.safetensors"))"""


@EXPORTS.register
class Vit(Form):
    """config.json and weights as timm, transformers or torchvision write them."""

    of: ClassVar[Literal["pipeline", "classifier", "edit"]] = "classifier"

    def write(self, edit: Edit, model: Classifier, folder: Path, dtype: torch.dtype) -> None:  # noqa: ARG002
        save_classifier(model, folder, dtype)

    def usage(self, edit: Edit, model: Classifier) -> list[str]:
        if model.library == "transformers":
            text = "from transformers import AutoModelForImageClassification\n\n"
            text += f'network = AutoModelForImageClassification.from_pretrained("{HERE}")'
        elif model.library == "timm":
            text = "import timm\n\n"
            text += f'network = timm.create_model("local-dir:{HERE}", pretrained=True)'
        else:
            file = (model.folder or Path()) / "config.json"
            config = read_record(file, dict[str, Any], error=ModelError)
            given = {"num_classes": len(model.labels), **config.get("model_args", {})}
            text = TORCHVISION.format(
                kind=str(config["architecture"]).removeprefix("torchvision:"),
                arguments=", ".join(f"{name}={value!r}" for name, value in given.items()),
            )
        first, count = edit.concepts[0], len(edit.concepts)
        what = first.name if first.kind == "samples" else f"{count} of its classes"
        return [
            f"A classifier that no longer knows {what}; the head keeps its size.",
            "", *code(text),
        ]  # fmt: skip

    def library(self, edit: Edit, model: Classifier) -> str:  # noqa: ARG002
        return model.library
