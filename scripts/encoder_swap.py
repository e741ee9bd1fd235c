"""AdvUnlearn's text encoder in front of UNets that it was not trained with.

    python scripts/encoder_swap.py runs/adv/horse --before runs/esd/cat --before pocket-one-step

Exports the run's text encoder, puts it into the unmodified pocket and into each `--before` (a run,
or a built-in model), and asks all of them for the concept under the protocol `pocket`'s seeds. The
table says how often the judge still sees it, in percent, with the model's own encoder and with the
swapped one; and, for a run of another concept, how often that one is seen.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTextModel

from erasure.edit import Edit
from erasure.exports.exporting import export
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.opening import open_run
from erasure_datasets.concept import Concept
from evaluation.attacking.scene import Case, cases_of, sampling_of
from evaluation.criteria import find_criterion
from evaluation.drawing.grid import grid
from evaluation.pictures import COLUMNS
from evaluation.protocols import pocket


def draw(model: StableDiffusion, cases: list[Case]) -> Tensor:
    """Images in [0, 255] of the cases, by the way this model is sampled."""
    how = sampling_of(model, None)
    model.use_scheduler(how.scheduler)
    rngs = [torch.Generator().manual_seed(case.noise_seed) for case in cases]
    texts = [case.prompt for case in cases]
    return model.generate(texts, steps=how.steps, guidance=how.guidance, generators=rngs)


def seen(model: StableDiffusion, concept: Concept, prompts: int) -> tuple[float, Tensor]:
    """(share of the concept's images in which its judge sees it, the images)."""
    images = draw(model, cases_of(model, concept, prompts=prompts, seeds=pocket.SEEDS))
    return float(find_criterion("judge", model, concept)(images).float().mean()), images


def main(run: Path, before: list[str], prompts: int, picture: Path | None) -> None:
    concept = Edit.load(run).concepts[0]
    titles = ["UNet", f"{concept.name}, own encoder", f"{concept.name}, swapped", "its own target"]
    print("| " + " | ".join(titles) + " |\n" + "|---" * len(titles) + "|")
    shown, names = [], []
    with tempfile.TemporaryDirectory() as folder:
        encoder = CLIPTextModel.from_pretrained(
            export(run, Path(folder) / "encoder", to="text-encoder")
        )
        for place in ["pocket", *before]:
            is_run = (Path(place) / "edit.json").is_file()
            model = open_run(Path(place)) if is_run else load_model(place)
            own, first = seen(model, concept, prompts)
            model.pipeline.text_encoder = encoder
            swapped, second = seen(model, concept, prompts)
            other = Edit.load(Path(place)).concepts[0] if is_run else None
            rest = f"{other.name} {100 * seen(model, other, prompts)[0]:.0f}" if other else "-"
            print(f"| {place} | {100 * own:.0f} | {100 * swapped:.0f} | {rest} |", flush=True)
            shown += [first[: len(COLUMNS)], second[: len(COLUMNS)]]
            names += [place, "with its encoder"]
    if picture:
        grid(shown, names, [str(i) for i in range(len(COLUMNS))]).save(picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--before", action="append", default=[], help="a run, or a built-in model")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--picture", type=Path, help="also write a sheet of the images")
    asked = parser.parse_args()
    main(asked.run, asked.before, asked.prompts, asked.picture)
