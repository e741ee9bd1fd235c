"""The part of a card that says how its export is opened."""

from pathlib import Path
from typing import Any

from erasure.edit import Edit
from erasure.errors import ModelError
from erasure.files.records import read_record
from erasure.models.classifier.classifier import Classifier
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.stable_diffusion import StableDiffusion

HERE = "<this folder>"
PLAIN_DELTA = """\
from safetensors.torch import load_file

for name, tensor in load_file("<this folder>/edit.safetensors").items():
    part, _, rest = name.partition(".")  # unet, text_encoder or text_encoder_2
    found = dict(getattr(pipeline, part).named_parameters())
    found[rest].data.copy_(tensor)"""
PLAIN_ADAPTERS = """\
from safetensors.torch import load_file

tensors = load_file("<this folder>/edit.safetensors")
for name in [n for n in tensors if n.endswith(".lora_A.weight")]:
    up = tensors[name.replace("lora_A", "lora_B")].float()
    part, rest = name.removesuffix(".lora_A.weight").split(".")[2], name.split(".", 3)[3]
    weight = getattr(pipeline, part).get_submodule(rest.removesuffix(".lora_A.weight")).weight
    weight.data += {scale} * up @ tensors[name].float()"""
TORCHVISION = """\
import torchvision
from safetensors.torch import load_file

network = torchvision.models.{kind}({arguments})
network.load_state_dict(load_file("<this folder>/model.safetensors"))"""


def usage(edit: Edit, form: str, model: LatentDiffusion | Classifier | None) -> list[str]:
    """Lines of Markdown; `model` is what was written, None where only the edit was."""
    if form == "diffusers" and isinstance(model, LatentDiffusion):
        return _of_pipeline(edit, model)
    if form == "text-encoder" and isinstance(model, LatentDiffusion):
        return _of_encoders(model)
    if form == "vit" and isinstance(model, Classifier):
        return _of_classifier(edit, model)
    if form == "lora":
        return [
            "One adapter per request: `pipeline.load_lora_weights(folder, weight_name=...)`, or "
            "one peft folder each for a classifier. Their full strength is 1; alpha / rank is "
            "multiplied in.", "",
        ]  # fmt: skip
    lines = [
        "Only the changed tensors. This toolkit opens them with "
        "`erasure.Edit.load(folder).apply(model)`.", "",
    ]  # fmt: skip
    if edit.is_of_classes:
        return lines
    is_lora = edit.form == "lora"
    text = PLAIN_ADAPTERS.replace("{scale}", f"{edit.scale:g}") if is_lora else PLAIN_DELTA
    return [*lines, "Without it, into a pipeline of the base:", "", *_code(text)]


def _of_pipeline(edit: Edit, model: LatentDiffusion) -> list[str]:
    kind = type(model.pipeline).__name__
    without = ", safety_checker=None" if isinstance(model, StableDiffusion) else ""
    text = f"from diffusers import {kind}\n\n"
    text += f'pipeline = {kind}.from_pretrained("{HERE}"{without})'
    if edit.sampling:
        text += (
            f'\npipeline("...", num_inference_steps={edit.sampling.steps}, '
            f"guidance_scale={edit.sampling.guidance})  # it draws in so many calls"
        )
    return _code(text)


def _of_encoders(model: LatentDiffusion) -> list[str]:
    kinds = {tower: type(getattr(model.pipeline, tower)).__name__ for tower in model.towers}
    text = f"from transformers import {', '.join(kinds.values())}\n"
    for tower, kind in kinds.items():
        inside = f'"{HERE}", subfolder="{tower}"' if len(kinds) > 1 else f'"{HERE}"'
        text += f"\npipeline.{tower} = {kind}.from_pretrained({inside})"
    return [
        "Only the text encoding: it erases in front of any UNet of this model's family.", "",
        *_code(text),
    ]  # fmt: skip


def _of_classifier(edit: Edit, model: Classifier) -> list[str]:
    if model.library == "transformers":
        text = "from transformers import AutoModelForImageClassification\n\n"
        text += f'network = AutoModelForImageClassification.from_pretrained("{HERE}")'
    elif model.library == "timm":
        text = f'import timm\n\nnetwork = timm.create_model("local-dir:{HERE}", pretrained=True)'
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
        f"A classifier that no longer knows {what}; the head keeps its size.", "",
        *_code(text),
    ]  # fmt: skip


def _code(text: str) -> list[str]:
    return ["```python", *text.split("\n"), "```", ""]
