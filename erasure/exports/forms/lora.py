"""Adapters, one per request: diffusers' load_lora_weights and peft open them."""

from pathlib import Path
from typing import ClassVar

import torch

from erasure.edit import Edit
from erasure.exports.forms import Form, cell
from erasure.exports.writing.adapter_files import file_names, write_adapters
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.registry import EXPORTS


@EXPORTS.register
class Lora(Form):
    """One file per request, or one peft folder each for a classifier."""

    is_adapter: ClassVar[bool] = True
    layouts: ClassVar[tuple[str, ...]] = ("diffusers", "kohya")

    def __init__(self, layout: str = "diffusers") -> None:
        self.layout = layout

    def opens(self) -> bool:
        return self.layout == "kohya"  # whose names depend on the model's blocks

    def refusal(self, edit: Edit) -> str:
        if edit.form != "lora":
            return f"{edit.method} made no adapters"
        if self.layout == "kohya" and edit.is_of_classifier:
            return "kohya's layout is of a pipeline's adapters, and these are a classifier's"
        return ""

    def write(
        self, edit: Edit, model: LatentDiffusion | None, folder: Path, dtype: torch.dtype
    ) -> None:
        write_adapters(edit, folder, dtype, model)

    def usage(self, edit: Edit, model: LatentDiffusion | None) -> list[str]:
        files = file_names(edit).items()
        return [
            "One adapter per request: `pipeline.load_lora_weights(folder, weight_name=...)`, or "
            "one peft folder each for a classifier. Their full strength is 1; alpha / rank is "
            "multiplied in.", *self._kohya(), "",
            "| file | takes away |", "|---|---|",
            *(f"| {file} | {cell(', '.join(edit.requests[request]))} |" for request, file in files),
            "",
        ]  # fmt: skip

    def _kohya(self) -> list[str]:
        if self.layout != "kohya":
            return []
        return ["", "By the names of kohya's sd-scripts, which A1111, Forge and ComfyUI read too."]

    def library(self, edit: Edit, model: LatentDiffusion | None) -> str:
        return "peft" if edit.is_of_classifier else "diffusers"
