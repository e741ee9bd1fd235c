"""The changed tensors alone, as a run keeps them."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from erasure.edit import Edit
from erasure.exports.forms import Form, code
from erasure.exports.writing.publishing import checked, public_name, without_paths
from erasure.registry import EXPORTS

PLAIN_DELTA = """\
from safetensors.torch import load_file

for name, tensor in load_file("<this folder>/edit.safetensors").items():
    part, _, rest = name.partition(".")  # unet, transformer, text_encoder or text_encoder_2
    found = dict(getattr(pipeline, part).named_parameters())
    found[rest].data.copy_(tensor)"""
PLAIN_SPARSE = """\
from safetensors.torch import load_file

tensors = load_file("<this folder>/edit.safetensors")
for name, tensor in tensors.items():
    plain, _, what = name.partition(":")  # whole, or :indices, :values and :shape of what changed
    part, _, rest = plain.partition(".")  # unet, transformer, text_encoder or text_encoder_2
    found = dict(getattr(pipeline, part).named_parameters())
    if not what:
        found[rest].data.copy_(tensor)
    elif what == "indices":
        weight = found[rest].data.flatten()
        weight[tensor.long()] = tensors[plain + ":values"].to(weight)
        found[rest].data.copy_(weight.view_as(found[rest]))"""
PLAIN_ADAPTERS = """\
from safetensors.torch import load_file

tensors = load_file("<this folder>/edit.safetensors")
for name in [n for n in tensors if n.endswith(".lora_A.weight")]:
    up = tensors[name.replace("lora_A", "lora_B")].float()
    part, rest = name.removesuffix(".lora_A.weight").split(".")[2], name.split(".", 3)[3]
    weight = getattr(pipeline, part).get_submodule(rest.removesuffix(".lora_A.weight")).weight
    weight.data += {scale} * up @ tensors[name].float()"""


@EXPORTS.register
class Delta(Form):
    """For this toolkit, and in ten lines for a plain pipeline of the base."""

    def write(self, edit: Edit, model: None, folder: Path, dtype: torch.dtype) -> None:
        base = public_name(edit.base)
        tensors = checked(edit.tensors, dtype, f"the edit of {base}")
        told = {name: value for name, value in edit.settings.items() if name != "samples"}
        settings = cast(dict[str, object], without_paths(told))  # nor images that it forgot
        parts = without_paths(edit.parts)
        replace(edit, tensors=tensors, base=base, settings=settings, parts=parts).save(folder)

    def usage(self, edit: Edit, model: None) -> list[str]:
        lines = [
            "Only the changed tensors. This toolkit opens them with "
            "`erasure.Edit.load(folder).apply(model)`.", "",
        ]  # fmt: skip
        if edit.is_of_classifier:
            return lines
        is_lora = edit.form == "lora"
        plain = PLAIN_SPARSE if edit.form == "sparse" else PLAIN_DELTA
        text = PLAIN_ADAPTERS.replace("{scale}", f"{edit.scale:g}") if is_lora else plain
        return [*lines, "Without it, into a pipeline of the base:", "", *code(text)]
