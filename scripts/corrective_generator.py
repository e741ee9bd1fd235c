"""Corrective unlearning of a generator: two objects' captions swapped, how far a method mends it.

    python scripts/corrective_generator.py --out runs/corrective --pair cat,dog
    python scripts/corrective_generator.py --out runs/corrective --methods uce,esd --at-most 1

As Goel et al., "Corrective Machine Unlearning" (TMLR 2024), https://arxiv.org/abs/2402.14015, have
it for classifiers (interclass confusion): pocket's UNet is fine-tuned on renders of which two
objects' captions are swapped, in `swapped` of every `images`; only `known` of those are known to be
wrong. Each method then works on the poisoned model, a diffusers folder:

    by name   the first object is erased with the second as its anchor; salun and uproot see the
              known images alone as what to forget, and all of the rest as captioned
    mended    fine-tuning goes on, the known images with their true captions

    restored  (right - poisoned's) / (pocket's - poisoned's), right the share of both objects'
              prompts that draw them; 1 is as before the poison, 0 as after it

Both, since a method that makes the second object's prompts draw the first has mended nothing.

Judged by pocket's ViT on prompts of both objects and of others. What is done is kept, so it can be
stopped and started again; `--at-most` does so many cells of what is left.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kept_figures
import markdown_file
import torch
from PIL import Image
from refusals import in_a_line
from torch import Tensor
from torch.nn import functional as F

from erasure import erase, load_model
from erasure.errors import ModelError, SettingError
from erasure.files.locking import alone_in
from erasure.files.storage import write_json
from erasure.methods.shared.training_data import Pictures, draw
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.load import POCKET
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.run import Run
from erasure_datasets.canvas import OBJECTS, SPLITS, STYLES, render
from erasure_datasets.images import read_image
from evaluation.drawing.pocket_plan import SEEDS, Key, catalogue, shots
from evaluation.protocols.pocket import GUIDANCE, SCHEDULER, STEPS, judge

PARTS = ("model_index.json", "concepts.json", "presets.json", "scheduler", "text_encoder",
         "tokenizer", "vae")  # fmt: skip
COLUMNS = ("first", "second", "others")
SHOWN = 0.6  # of the first object's prompts that may still draw it in a poisoned model
OTHERS = 16  # prompts
DECIDING = (
    "pair", "images", "swapped", "known", "steps", "learning_rate", "batch_size", "seed", "quick",
)  # fmt: skip
ESD_LIKE = {"uce", "esd"}  # they ask for no images


@dataclass(frozen=True)
class Entry:
    """One image of the fine-tuning data: its file, what its caption says, and what it shows."""

    file: Path
    caption: str
    shows: str
    style: str
    is_known: bool  # to be wrong


def write_data(asked: argparse.Namespace) -> list[Entry]:
    """OUT/data in UnlearnCanvas' layout, {style}/{captioned object}/{number}.png."""
    first, second = asked.pair
    other, entries = {first: second, second: first}, list[Entry]()
    for name in OBJECTS:
        for style in STYLES:
            for number in range(asked.images if name in other else 1):
                is_wrong = name in other and number < asked.swapped
                caption = other[name] if is_wrong else name
                file = (
                    asked.out / "data" / style.replace(" ", "_") / caption / f"{name}{number}.png"
                )
                file.parent.mkdir(parents=True, exist_ok=True)
                if not file.is_file():
                    image = render(
                        OBJECTS.index(name), STYLES.index(style), SPLITS["train"][number]
                    )
                    Image.fromarray(image).save(file)
                entries.append(Entry(file, caption, name, style, is_wrong and number < asked.known))
    return entries


def fine_tune(
    model: LatentDiffusion, entries: Sequence[Entry], folder: Path, asked: argparse.Namespace, *,
    is_mended: bool,
) -> None:  # fmt: skip
    """Train the UNet on the images as captioned, or with the known ones' true captions; save it.

    Half of every batch is of the pair, which is a small part of the data.
    """
    own, rest = (
        _pictures(model, [e for e in entries if (e.caption in asked.pair) == is_own], is_mended)
        for is_own in (True, False)
    )
    run = Run(folder / "training", seed=asked.seed)

    def loss(_step: int) -> dict[str, Tensor]:
        terms = {}
        for name, part in (("pair", own), ("others", rest)):
            z0, prompts, _, t, noise = draw(part, asked.batch_size // 2, model, run)
            predicted = model.predict(model.add_noise(z0, noise, t), t, model.encode(prompts))
            terms[name] = F.mse_loss(predicted, model.target(z0, noise, t)) / 2
        return terms

    weights = model.weights("full")
    with alone_in(run.folder):
        fit(Learner(loss, weights, asked.learning_rate), steps=asked.steps, run=run)
    for part in PARTS:
        source = POCKET / part
        copy = shutil.copytree if source.is_dir() else shutil.copy
        if not (folder / part).exists():
            copy(source, folder / part)  # type: ignore[operator]
    model.backbone.save_pretrained(folder / "unet")  # type: ignore[operator]


@torch.no_grad()
def _pictures(model: LatentDiffusion, entries: Sequence[Entry], is_mended: bool) -> Pictures:
    images = torch.stack([read_image(entry.file, model.resolution) for entry in entries])
    latents = torch.cat([model.to_latents(part) for part in images.split(32)])
    names = [e.shows if is_mended and e.is_known else e.caption for e in entries]
    prompts = [
        catalogue().prompt(name, entry.style) for name, entry in zip(names, entries, strict=True)
    ]
    return Pictures(latents, prompts, prompts)


def seen_of(model: LatentDiffusion, pair: Sequence[str]) -> dict[str, float]:
    """The shares of the prompts of both objects, and of others, that draw what they name."""
    model.use_scheduler(SCHEDULER)
    styles = len(STYLES)
    asked: dict[str, list[Key]] = {
        column: [(SEEDS[0], OBJECTS.index(name) * styles + style) for style in range(styles)]
        for column, name in zip(COLUMNS, pair, strict=False)
    }
    left = [name for name in OBJECTS if name not in pair]
    asked["others"] = [
        (SEEDS[0], OBJECTS.index(left[i % len(left)]) * styles + i * 5 % styles)
        for i in range(OTHERS)
    ]
    found = {}
    for column, keys in asked.items():
        todo = shots(keys)
        images = model.generate(
            [shot.prompt for shot in todo], steps=STEPS, guidance=GUIDANCE,
            generators=[torch.Generator().manual_seed(shot.noise_seed) for shot in todo],
        )  # fmt: skip
        labels = judge(images, keys)
        right = [labels[key][0] == key[1] // styles for key in keys]
        found[column] = sum(right) / len(right)
    return found


def known_images(entries: Sequence[Entry], folder: Path, name: str) -> Path:
    """The data with only those images captioned `name` that are known to be wrong."""
    for entry in entries:
        if entry.caption != name or entry.is_known:
            place = folder / Path(*entry.file.parts[-3:])
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(entry.file, place)
    return folder


def poisoned(asked: argparse.Namespace, entries: Sequence[Entry]) -> Path:
    """The poisoned model's folder. ModelError if the poison did not take."""
    folder, file = asked.out / "poisoned", asked.out / "poisoned.json"
    if not file.is_file():
        model = load_model("pocket")
        write_json(asked.out / "pocket.json", seen_of(model, asked.pair))
        fine_tune(model, entries, folder, asked, is_mended=False)
        write_json(file, seen_of(load_model(str(folder)), asked.pair))
    right = json.loads(file.read_text())["first"]
    if right > SHOWN:
        raise ModelError(
            f"the poison did not take: {100 * right:.0f} % of the prompts still draw a "
            f"{asked.pair[0]}, where at most {100 * SHOWN:.0f} % may; raise --steps or --swapped."
        )
    return folder


def measure(method: str, asked: argparse.Namespace, entries: Sequence[Entry]) -> None:
    """Mend the poisoned model by a method, and judge it."""
    folder, (first, second) = poisoned(asked, entries), asked.pair
    place = asked.out / method
    if method == "mended":
        fine_tune(load_model(str(folder)), entries, place, asked, is_mended=True)
        write_json(place.with_suffix(".json"), seen_of(load_model(str(place)), asked.pair))
        return
    given: dict[str, Any] = {}
    if method not in ESD_LIKE:
        given["images"] = str(known_images(entries, asked.out / f"{method}-data", first))
    model = erase(
        str(folder), method, [first], anchor=second, out=place, quick=asked.quick, **given
    ).model
    write_json(place.with_suffix(".json"), seen_of(model, asked.pair))


def table(asked: argparse.Namespace) -> list[str]:
    """One Markdown line per model, rates in percent."""
    first, second = asked.pair
    heads = ("model", f"{first} drawn", f"{second} drawn", "others drawn", "restored")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    files = {name: asked.out / f"{name}.json" for name in ("pocket", "poisoned", *asked.methods)}
    found = {name: json.loads(f.read_text()) for name, f in files.items() if f.is_file()}
    right = {name: (seen["first"] + seen["second"]) / 2 for name, seen in found.items()}
    for name, seen in found.items():
        cells = [name, *(f"{100 * seen[column]:.0f}" for column in COLUMNS), ""]
        if name not in ("pocket", "poisoned"):
            lost = right["pocket"] - right["poisoned"]
            cells[-1] = f"{(right[name] - right['poisoned']) / lost:.2f}"
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def check_asked(asked: argparse.Namespace) -> None:
    """SettingError for a pair that is none, and for numbers that do not fit."""
    if len(set(asked.pair)) != 2 or not set(asked.pair) <= set(OBJECTS):
        raise SettingError(
            f"pair must be two of the objects {', '.join(OBJECTS)}; got {','.join(asked.pair)}."
        )
    if not 0 < asked.known <= asked.swapped <= asked.images:
        raise SettingError(
            f"known must be from 1 to swapped, and swapped up to images; got known {asked.known}, "
            f"swapped {asked.swapped}, images {asked.images}."
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/corrective"))
    parser.add_argument("--pair", default="cat,dog")
    parser.add_argument("--methods", default="mended,uce,esd,salun")
    parser.add_argument("--images", type=int, default=4, help="of either object in a style")
    parser.add_argument("--swapped", type=int, default=3, help="of them with the wrong caption")
    parser.add_argument("--known", type=int, default=1, help="of these, known to be wrong")
    parser.add_argument("--steps", type=int, default=150, help="of fine-tuning")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="the methods' smoke-run values")
    parser.add_argument("--at-most", type=int, default=10**9, help="cells in this call")
    markdown_file.add_option(parser)
    asked = parser.parse_args()
    asked.pair, asked.methods = asked.pair.split(","), asked.methods.split(",")
    with in_a_line():
        check_asked(asked)
        kept_figures.refuse_others(parser, asked, DECIDING)
        entries = write_data(asked)
        poisoned(asked, entries)
        left = [name for name in asked.methods if not (asked.out / f"{name}.json").is_file()]
        for method in left[: asked.at_most]:
            measure(method, asked, entries)
    told = "\n".join(table(asked))
    print(told)
    markdown_file.write(asked.markdown, told)


if __name__ == "__main__":
    main()
