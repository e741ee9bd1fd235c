"""One .safetensors file by the original releases' names, with the configs that it leaves out."""

from pathlib import Path

import torch

from erasure.edit import Edit
from erasure.exports.forms import HERE, WholeModel, code
from erasure.exports.writing.single_file import is_published_size, save_single_file
from erasure.files.naming import slug
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.registry import EXPORTS


@EXPORTS.register
class SingleFile(WholeModel):
    """Of Stable Diffusion 1.x, 2.x and XL."""

    def refusal(self, edit: Edit) -> str:
        if not edit.sampling:
            return ""
        if edit.sampling.scheduler.startswith("FlowMatch"):
            known = "Stable Diffusion 1.x, 2.x and XL"
            return f"single-file is of {known}, and {edit.base} samples a flow"
        return (
            f"a single file cannot say how {edit.base} is drawn ({edit.sampling.steps} step by "
            f"{edit.sampling.scheduler})"
        )

    def save(
        self, model: LatentDiffusion, folder: Path, dtype: torch.dtype, *, title: str, about: str
    ) -> None:
        save_single_file(model, folder / file_name(title), dtype, title=title, about=about)

    def opening(self, model: LatentDiffusion, title: str) -> list[str]:
        kind, file = type(model.pipeline).__name__, f"{HERE}/{file_name(title)}"
        text = f"from diffusers import {kind}\n\n"
        text += f'pipeline = {kind}.from_single_file("{file}", config="{HERE}")'
        if is_published_size(model):
            where = (
                "The file alone is what tools of the original layout (ComfyUI, A1111, Forge) take; "
                "diffusers finds the configs in this folder, without a network."
            )
        else:
            where = (
                "Its sizes or its noise schedule are those of no release, which tools of the "
                "original layout take for granted: it opens only with the configs in this folder."
            )
        return [where, "", *code(text)]


def file_name(title: str) -> str:
    """The file's name, after what the model is called: no owner or revision of a Hub id."""
    base, without, rest = title.partition(" without ")
    plain = base.rpartition("/")[2].partition("@")[0].removesuffix(".safetensors")
    return f"{slug(plain + without + rest)}.safetensors"
