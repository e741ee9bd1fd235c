"""A diffusers folder as one .safetensors file, named as the original releases are."""

from pathlib import Path

import torch

from erasure.exports.writing.single_file import save_single_file
from erasure.models.diffusion.load import load_model


def write_single_file(folder: Path, file: Path) -> Path:
    model = load_model(str(folder))
    save_single_file(model, file, torch.float32, title="a miniature", about="of random weights")
    return file
