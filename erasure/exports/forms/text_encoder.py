"""The text encoder alone, or one subfolder per text encoder: plain transformers opens each."""

from pathlib import Path
from typing import ClassVar, Literal

import torch

from erasure.edit import Edit
from erasure.exports.forms import HERE, Form, code
from erasure.exports.writing.publishing import convert, rename_text_encoder
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.registry import EXPORTS


@EXPORTS.register
class TextEncoder(Form):
    """Of an edit that changes nothing else."""

    of: ClassVar[Literal["pipeline", "classifier", "edit"]] = "pipeline"

    def refusal(self, edit: Edit) -> str:
        names = [n.split(".", 2)[2] if edit.form == "lora" else n for n in edit.tensors]
        elsewhere = [name for name in names if not name.startswith("text_encoder")]
        if not elsewhere:
            return ""
        return (
            f"{edit.method} changed {elsewhere[0]} and {len(elsewhere) - 1} other tensors outside "
            "the text encoder"
        )

    def write(self, edit: Edit, model: LatentDiffusion, folder: Path, dtype: torch.dtype) -> None:
        for tower in model.towers:  # a single one is the folder itself
            place = folder / tower if len(model.towers) > 1 else folder
            encoder = getattr(model.pipeline, tower)
            convert(encoder, dtype, f"{model.name}'s {tower}")
            encoder.save_pretrained(place)
            rename_text_encoder(place)

    def usage(self, edit: Edit, model: LatentDiffusion) -> list[str]:
        kinds = {tower: type(getattr(model.pipeline, tower)).__name__ for tower in model.towers}
        text = f"from transformers import {', '.join(kinds.values())}\n"
        for tower, kind in kinds.items():
            inside = f'"{HERE}", subfolder="{tower}"' if len(kinds) > 1 else f'"{HERE}"'
            text += f"\npipeline.{tower} = {kind}.from_pretrained({inside})"
        return [
            "Only the text encoding: it erases in front of any UNet of this model's family.", "",
            *code(text),
        ]  # fmt: skip

    def library(self, edit: Edit, model: LatentDiffusion) -> str:
        return "transformers"
