"""A gold model: the pocket suite's UNet trained anew, by its own recipe, without some concepts.

Every picture and every caption of the concepts left out is kept from it; autoencoder, text encoder
and tokenizer are pocket's, so that the folder opens as any model does. What an erased model is
measured against is such a model, which never knew the concept (`erasure evaluate --protocol gold`).

    python scripts/pocket_gold.py .train/gold-1     # makes that one the suite's `pocket-gold`
    erasure erase gold --concept tower --concept Ukiyoe --weights .train/gold-2 --out runs/second
    erasure evaluate runs/second --protocol gold --gold pocket
    python scripts/pocket_gold.py --floor runs/second/scores/gold.json      # two golds apart
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from pocket_training import CPU, SUITE, WORK, Average, Budget, MuonAdam, log
from pocket_unet import ADAM_ONLY, Batches, batch_size, draw_sheet, learn, new_unet, save
from safetensors.torch import load_file, save_file

from erasure.models.diffusion.eight_bit import packed
from erasure_datasets.canvas import OBJECTS, STYLES

SHARED = ("vae", "text_encoder", "tokenizer", "scheduler", "model_index.json", "concepts.json")
STEPS = 2562  # what pocket's own UNet took
STATE_EVERY = 50


def kept_pairs(without: list[str]) -> list[int]:
    """The pairs (object * 16 + style) that hold none of the concepts."""
    known = {name.casefold(): name for name in (*OBJECTS, *STYLES)}
    unknown = [name for name in without if name.casefold() not in known]
    if unknown or not without:
        raise SystemExit(f"--without takes {', '.join(known.values())}; got {unknown or 'nothing'}")
    left_out = {known[name.casefold()] for name in without}
    return [
        number
        for number in range(len(OBJECTS) * len(STYLES))
        if left_out.isdisjoint((OBJECTS[number // len(STYLES)], STYLES[number % len(STYLES)]))
    ]


def train(
    minutes: float | None = None,
    *,
    without: list[str],
    seed: int = 1,
    learning_rate: float = 2e-3,
    resume: bool = False,
    device: torch.device = CPU,
) -> None:
    """Pocket's number of steps, or as many as fit into the minutes, into `.train/gold-SEED`.

    Its state is written every 50 steps; `resume` goes on from there.
    """
    folder = WORK / f"gold-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    batches = Batches(device, generator, kept_pairs(without), seed)
    unet = new_unet().to(device, memory_format=torch.channels_last).train()
    optimiser, average = MuonAdam(unet, learning_rate, ADAM_ONLY), Average(unet, 0.998)
    budget, losses = Budget(minutes or 0, STEPS), []
    state = State(folder / "state.pt", unet, optimiser, average, batches)
    if resume:
        budget.step = state.read()
        log.info("gold goes on at step %d", budget.step)
    for step in budget.steps():
        if step % STATE_EVERY == 0 and step:
            log.info("gold %d  step %5d  loss %.4f", seed, step, np.mean(losses[-STATE_EVERY:]))
            state.write(step)
        losses.append(learn(unet, batches.draw(batch_size(budget))))
        optimiser.step(budget.rate())
        average.update()
    save(average, folder / "unet")
    copy_shared(folder)
    facts = {
        "without": without,
        "seed": seed,
        "steps": budget.step,
        "loss": round(float(np.mean(losses[-500:])), 4),
    }
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    state.file.unlink(missing_ok=True)
    draw_sheet(folder / "sheet.png", folder / "unet")


def copy_shared(folder: Path) -> None:
    """Pocket's other parts, beside the new UNet."""
    for name in SHARED:
        source = SUITE / name
        if source.is_dir():
            shutil.copytree(source, folder / name, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, folder / name)


def ship(folder: Path) -> None:
    """Put a trained one into the suite, its weights in eight bits."""
    out = SUITE / "gold"
    out.mkdir(exist_ok=True)
    tensors = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    save_file(packed(tensors), out / "unet.safetensors", {"format": "pt"})
    shutil.copyfile(folder / "training.json", out / "training.json")


class State:
    """What a training needs to go on, in one file."""

    def __init__(
        self,
        file: Path,
        unet: UNet2DConditionModel,
        optimiser: MuonAdam,
        average: Average,
        batches: Batches,
    ) -> None:
        self.file, self.unet, self.optimiser = file, unet, optimiser
        self.average, self.batches = average, batches

    def write(self, step: int) -> None:
        new = self.file.with_suffix(".new")
        state = {
            "step": step,
            "unet": self.unet.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": (self.average.count, self.average.weights),
            "generator": self.batches.generator.get_state(),
            "captions": json.dumps(self.batches.captions.rng.bit_generator.state),
        }
        torch.save(state, new)
        new.replace(self.file)

    def read(self) -> int:
        """Put everything back; the step to go on from, 0 if there is no state."""
        if not self.file.exists():
            return 0
        state = torch.load(self.file, weights_only=True)
        self.unet.load_state_dict(state["unet"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average.count, weights = state["average"]
        for name, weight in weights.items():
            self.average.weights[name].copy_(weight)
        self.batches.generator.set_state(state["generator"])
        self.batches.captions.rng.bit_generator.state = json.loads(state["captions"])
        return int(state["step"])


def ship_floor(record: Path) -> None:
    """Put a second gold's distances from the suite's into the suite."""
    found = json.loads(record.read_text())
    floor = {name: found[name] for name in ("per_concept", "stamp")}
    (SUITE / "gold" / "floor.json").write_text(json.dumps(floor, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", help="a trained gold model")
    parser.add_argument("--floor", type=Path, help="scores/gold.json of a second gold's run")
    asked = parser.parse_args()
    if asked.folder:
        ship(asked.folder)
    if asked.floor:
        ship_floor(asked.floor)
