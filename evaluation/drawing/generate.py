"""Draw a protocol's images: in fixed batches, each from its own seed, finished ones skipped.

The processes of a launch draw a share each and meet in the folder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from erasure.files.storage import atomic
from erasure.models.diffusion.model import DiffusionModel
from erasure.training.processes import launched, share
from erasure.training.progress import live_bar, shown
from erasure_datasets.images import read_image
from evaluation.drawing.drawn import claim_folder, how_drawn

PIXELS_AT_ONCE = 2**23  # 32 images of 512 px, 8 of 1024


@dataclass(frozen=True)
class Shot:
    """One image to draw: its prompt, the seed of its noise, and its file's name."""

    prompt: str
    noise_seed: int
    file: str


def own_noise(shot: Shot) -> torch.Generator:
    """A fresh CPU generator of the shot's seed."""
    return torch.Generator().manual_seed(shot.noise_seed)


def draw(
    model: DiffusionModel,
    shots: Sequence[Shot],
    folder: Path,
    *,
    steps: int,
    guidance: float,
    batch_size: int | None = None,
    noise: Callable[[Shot], torch.Generator] = own_noise,
    noted: Mapping[str, Any] | None = None,
) -> UInt8[Tensor, "n 3 h w"]:
    """Images in [0, 255] in the shots' order; those in `folder` are read, others drawn and saved.

    A file's name says its format, .png or .jpg. `batch_size` is as many as is fast on a CPU and
    fits a GPU, unless given. The folder is a run's images/NAME; RunError if it holds images of
    another model, edit or sampling, or of other values of what is `noted`.
    """
    known = how_drawn(model, folder, steps=steps, guidance=guidance)
    claim_folder(folder, {**known, **(noted or {})})
    at_once = batch_size or max(1, min(32, PIXELS_AT_ONCE // model.resolution**2))
    # what an image is drawn beside changes its last bits, so batches go by place, not by what is
    # missing; shared out before looking what is there: another process may be writing already
    batches = [shots[start : start + at_once] for start in range(0, len(shots), at_once)]
    own = [
        (batch, missing)
        for batch in share(batches)
        if (missing := {shot.file for shot in batch if not (folder / shot.file).is_file()})
    ]
    quiet = not launched().is_main_process
    count = sum(len(missing) for _, missing in own)
    with live_bar("drawing", count, quiet=quiet, transient=True) as bar:
        for batch, missing in own:
            generators = [noise(shot) for shot in batch]
            images = model.generate(
                [s.prompt for s in batch], steps=steps, guidance=guidance, generators=generators
            )
            for shot, image in zip(batch, images, strict=True):
                if shot.file in missing:
                    save_image(image, folder / shot.file)
                    bar.advance()
    launched().wait_for_everyone()
    return torch.stack([read_image(folder / shot.file) for shot in shown(shots, "reading images")])


def save_image(image: UInt8[Tensor, "3 h w"], file: Path) -> None:
    """Write an image in [0, 255] as its file's name says, .png or .jpg."""
    with atomic(file) as temporary:
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture.save(temporary, format="JPEG" if file.suffix == ".jpg" else "PNG")
