"""Adapters, one per request: diffusers' load_lora_weights and peft open them."""

from pathlib import Path
from typing import ClassVar

import torch

from erasure.edit import Edit
from erasure.exports.forms import Form, cell
from erasure.exports.writing.adapter_files import file_names, write_adapters
from erasure.registry import EXPORTS


@EXPORTS.register
class Lora(Form):
    """One file per request, or one peft folder each for a classifier."""

    is_adapter: ClassVar[bool] = True

    def refusal(self, edit: Edit) -> str:
        return "" if edit.form == "lora" else f"{edit.method} made no adapters"

    def write(self, edit: Edit, model: None, folder: Path, dtype: torch.dtype) -> None:  # noqa: ARG002
        write_adapters(edit, folder, dtype)

    def usage(self, edit: Edit, model: None) -> list[str]:  # noqa: ARG002
        files = file_names(edit).items()
        return [
            "One adapter per request: `pipeline.load_lora_weights(folder, weight_name=...)`, or "
            "one peft folder each for a classifier. Their full strength is 1; alpha / rank is "
            "multiplied in.", "",
            "| file | takes away |", "|---|---|",
            *(f"| {file} | {cell(', '.join(edit.requests[request]))} |" for request, file in files),
            "",
        ]  # fmt: skip

    def library(self, edit: Edit, model: None) -> str:  # noqa: ARG002
        return "peft" if edit.is_of_classifier else "diffusers"
