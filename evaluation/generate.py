"""Draw a protocol's images: batched, each from its own seed, finished ones skipped.

The processes of a launch draw a share each and meet in the folder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from erasure.models.diffusion import DiffusionModel
from erasure.processes import launched, share
from erasure.progress import Bar
from erasure.storage import atomic
from erasure_datasets.images import read_image

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
) -> UInt8[Tensor, "n 3 h w"]:
    """Images in [0, 255] in the shots' order; those in `folder` are read, others drawn and saved.

    A file's name says its format, .png or .jpg. `batch_size` is as many as is fast on a CPU and
    fits a GPU, unless given.
    """
    at_once = batch_size or max(1, min(32, PIXELS_AT_ONCE // model.resolution**2))
    # shared out before looking what is there: another process may be writing already
    missing = [shot for shot in share(shots) if not (folder / shot.file).is_file()]
    quiet = not launched().is_main_process
    with Progress(console=Console(stderr=True), transient=True, disable=quiet) as live:
        bar = Bar(live, live.add_task("drawing", total=len(missing), note=""))
        for start in range(0, len(missing), at_once):
            part = missing[start : start + at_once]
            generators = [noise(shot) for shot in part]
            images = model.generate(
                [s.prompt for s in part], steps=steps, guidance=guidance, generators=generators
            )
            for shot, image in zip(part, images, strict=True):
                kind = "JPEG" if shot.file.endswith(".jpg") else "PNG"
                with atomic(folder / shot.file) as temporary:
                    Image.fromarray(image.permute(1, 2, 0).numpy()).save(temporary, format=kind)
                bar.advance()
    launched().wait_for_everyone()
    return torch.stack([read_image(folder / shot.file) for shot in shots])
