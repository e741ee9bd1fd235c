"""docs/one-step.png: teacher, one-step generator, one that forgot, from the same noise; and speed.

    python scripts/one_step_picture.py runs/sfd/horse

The run is one of `erasure erase sfd --model pocket`. Prints the seconds per image of the protocol's
guided steps and of one call, for the latents alone and with decoding, in turn, as ratios.
"""

import argparse
import time
from pathlib import Path

import torch

from erasure.edit import Edit
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.model import Sampling
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.opening import open_run
from evaluation.drawing.grid import grid
from evaluation.pictures import COLUMNS
from evaluation.protocols import pocket

ROUNDS, BATCH = 3, 64


def picture(run: Path, file: Path) -> None:
    """Three rows for the concept, three for the object before it in the list."""
    concept = Edit.load(run).concepts[0].name
    names = pocket.catalogue().objects
    kept = names[names.index(concept) - 2]
    models = {"12 guided steps": load_model("pocket"), "one step": load_model("pocket-one-step"),
              f"one step, no {concept}": open_run(run)}  # fmt: skip
    rows, titles = [], []
    for name in (concept, kept):
        prompts = [pocket.catalogue().prompt(name, style) for style in COLUMNS]
        for title, model in models.items():
            how = model.sampling or pocket.SAMPLING
            rngs = [torch.Generator().manual_seed(188 + i) for i in range(len(prompts))]
            model.use_scheduler(how.scheduler)
            rows.append(
                model.generate(prompts, steps=how.steps, guidance=how.guidance, generators=rngs)
            )
            titles.append(f"{name}: {title}" if title.startswith("12") else title)
    grid(rows, titles, COLUMNS).quantize(256).save(file, optimize=True)


def seconds(model: StableDiffusion, how: Sampling, output: str) -> float:
    """Per image, of one batch through the plain pipeline."""
    model.use_scheduler(how.scheduler)
    start = time.monotonic()
    model.pipeline(
        ["A cat image in Photo style."] * BATCH, num_inference_steps=how.steps,
        guidance_scale=how.guidance, output_type=output,
    )  # fmt: skip
    return (time.monotonic() - start) / BATCH


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/one-step.png"))
    asked = parser.parse_args()
    picture(asked.run, asked.out)
    teacher, generator = load_model("pocket"), load_model("pocket-one-step")
    assert generator.sampling
    for output, title in (("latent", "latents"), ("pt", "images")):
        pairs = [
            (
                seconds(teacher, pocket.SAMPLING, output),
                seconds(generator, generator.sampling, output),
            )
            for _ in range(ROUNDS)
        ]
        many, one = (min(column) for column in zip(*pairs, strict=True))
        print(f"{title}: {many * 1000:.1f} ms against {one * 1000:.1f} ms, ratio {many / one:.1f}")
