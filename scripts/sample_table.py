"""Forgetting a random share, or a class, of real images: every method against retraining.

    python scripts/sample_table.py --data hf:uoft-cs/cifar10 --out runs/cifar10
    python scripts/sample_table.py --data DATA --out runs/small --small --originals 3 --repeats 2
    python scripts/sample_table.py --data DATA --out runs/small-class --small --class airplane

Trains `originals` classifiers from as many seeds with `erasure train`; each forgets `repeats`
shares by every method, and is retrained without each share by its own recipe; all are judged under
the protocol random-forgetting. A class is the same in every repeat, whose seed is then the
method's alone. What is finished is kept, so it can be stopped and started again. `--small` is for
two cores: 300 images a class at 16 pixels.

Prints two tables in Markdown: means over everything; and of UA, RA and TA the mean difference to
retraining with its 95 % interval (Student's t over the originals, whose repeats are no draws of
their own), beside the standard deviation between originals and within one, as analysis of variance
parts them: repeating the unlearning of one network says nothing of the first.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kept_figures
import markdown_file
from refusals import erasure
from scipy.stats import t

METHODS = {
    "fine-tune": ["--l1", "0", "--epochs-without", "0"],
    "l1-sparse": [],  # fine-tune with its penalty
    "gradient-ascent": [],
    "random-label": [],
    "salun": [],
    "ssd": ["--selection", "10"],  # the paper's for ResNets
    "laf": [],
    "prune, fine-tune": ["--then", "fine-tune"],
    "prune, random-label": ["--then", "random-label"],
}
COMMANDS = {"l1-sparse": "fine-tune"} | {name: "prune" for name in METHODS if "prune" in name}
BASE = ["--epochs", "40", "--label-smoothing", "0"]
BATCH = ["--batch-size", "64"]
MILD = [*BATCH, "--epochs", "5", "--learning-rate", "0.002"]  # the published take all along
SMALL = {
    "images": ["--images", "300", "--test-images", "100"],
    "base": ["--size", "16", "--argument", "channels=16,32,64,128", "--epochs", "30",
             "--label-smoothing", "0", *BATCH],
    "fine-tune": BATCH, "l1-sparse": BATCH, "random-label": MILD, "salun": MILD,
    "gradient-ascent": [*BATCH, "--learning-rate", "2e-4"],
    "prune, fine-tune": [*BATCH, "--then-settings", "batch_size=64"],
    "prune, random-label": [
        *BATCH, "--then-settings", "batch_size=64,epochs=5,learning_rate=0.002",
    ],
    "laf": ["--epochs", "5", "--extraction-rate", "1e-4", "--alignment-rate", "4e-4"],
}  # fmt: skip
COLUMNS = ("UA", "RA", "TA", "MIA", "gap", "leak", "distance")
COMPARED = ("UA", "RA", "TA")
Records = list[list[dict[str, Any]]]  # by original, then by repeat


def trained(place: Path, seed: int, asked: argparse.Namespace, small: dict[str, list[str]]) -> Path:
    """An original's folder."""
    base = place / "base"
    if not (base / "config.json").is_file():
        erasure("train", asked.architecture, "--data", asked.data, "--out", base, "--seed", seed,
                *small["images"], *small.get("base", BASE))  # fmt: skip
    return base


def forgotten(
    name: str, base: Path, place: Path, seed: int, asked: argparse.Namespace,
    small: dict[str, list[str]],
) -> Path:  # fmt: skip
    """The run of a method, or of `retrain`, that forgets the class or the share of a seed."""
    run = place / name.replace(", ", "-")
    if not (run / "edit.json").is_file():
        erasure(
            "forget", COMMANDS.get(name, name), "--model", base, "--data", asked.data,
            *request(asked), "--seed", seed, "--watch-every", 0,
            "--out", run, *small["images"], *METHODS.get(name, []), *small.get(name, []),
        )  # fmt: skip
    return run


def request(asked: argparse.Namespace) -> list[str]:
    """What is to be forgotten."""
    return ["--class", asked.label] if asked.label else ["--random-share", asked.share]


def judged(run: Path, reference: Path) -> dict[str, Any]:
    """The record of a run, made if it is not there."""
    file = run / "scores" / "random-forgetting.json"
    if not file.is_file():
        erasure("evaluate", run, "--protocol", "random-forgetting", "--reference", reference)
    return json.loads(file.read_text())


def means(name: str, records: Sequence[dict[str, Any]], key: str = "scores") -> str:
    """A line of means; rates in percent, the leak as it is."""
    cells = [name]
    for column in COLUMNS:
        values = [found[key][column]["value"] for found in records if column in found[key]]
        scale, digits = (1, 2) if column == "leak" else (100, 1)
        cells.append(f"{scale * statistics.mean(values):.{digits}f}" if values else "-")
    seconds = [found["seconds"] for found in records] if key == "scores" else []
    cells.append(f"{statistics.mean(seconds):.0f}" if seconds else "-")
    return f"| {' | '.join(cells)} |"


def parted(
    values: Sequence[Sequence[float]],
) -> tuple[float | None, float | None, float | None]:
    """(half of the mean's 95 % interval, sd between originals, sd within one), by rows of repeats.

    As a one-way analysis of variance parts them; None where there is one of a kind.
    """
    rows = [statistics.mean(row) for row in values]
    repeats = len(values[0])
    within = (
        statistics.mean(statistics.variance(row) for row in values) if repeats > 1 else None
    )  # fmt: skip
    if len(rows) == 1:
        return None, None, None if within is None else within**0.5
    spread = statistics.variance(rows)
    half = float(t.ppf(0.975, len(rows) - 1)) * (spread / len(rows)) ** 0.5
    if within is None:
        return half, spread**0.5, None
    return half, max(spread - within / repeats, 0.0) ** 0.5, within**0.5


def apart(name: str, records: Records, golds: Records) -> str:
    """A line of differences to retraining, in points of a percent."""
    cells = [name]
    for column in COMPARED:
        found = [
            [
                100 * (one["scores"][column]["value"] - gold["scores"][column]["value"])
                for one, gold in zip(row, own, strict=True)
            ]
            for row, own in zip(records, golds, strict=True)
        ]
        half, between, within = parted(found)
        told = " / ".join("-" if sd is None else f"{sd:.1f}" for sd in (between, within))
        middle = statistics.mean(value for row in found for value in row)
        interval = "" if half is None else f" ± {half:.1f}"
        cells.append(f"{middle:+.1f}{interval} ({told})")
    return f"| {' | '.join(cells)} |"


def tables(found: dict[str, Records]) -> str:
    every = {name: [one for row in records for one in row] for name, records in found.items()}
    lines = ["| method | " + " | ".join([*COLUMNS, "s"]) + " |", "|" + "---|" * (len(COLUMNS) + 2)]
    lines.append(means("un-erased", every["retrain"], "baseline"))
    lines += [means(name, records) for name, records in every.items()]
    lines += ["", "| method | " + " | ".join(COMPARED) + " |", "|" + "---|" * (len(COMPARED) + 1)]
    golds = found["retrain"]
    lines += [apart(name, own, golds) for name, own in found.items() if name != "retrain"]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--share", default="0.1", help="of the training images [0.1]")
    parser.add_argument("--class", dest="label", help="a class instead of a share")
    parser.add_argument("--originals", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--methods", default=";".join(METHODS), help="with semicolons between")
    parser.add_argument("--small", action="store_true", help="for two cores")
    markdown_file.add_option(parser)
    chosen = parser.parse_args()
    kept_figures.refuse_others(parser, chosen, ("data", "architecture", "share", "label", "small"))
    every_image = {"images": ["--images", "0", "--test-images", "0"]}
    settings = SMALL if chosen.small else every_image
    collected: dict[str, Records] = {}
    for original in range(chosen.originals):
        own_place = chosen.out / f"original-{original}"
        network = trained(own_place, original, chosen, settings)
        for repeat in range(chosen.repeats):
            share = own_place / f"share-{repeat}"
            retrained = forgotten("retrain", network, share, repeat, chosen, settings)
            for word in ["retrain", *chosen.methods.split(";")]:
                run_folder = forgotten(word, network, share, repeat, chosen, settings)
                rows = collected.setdefault(word, [[] for _ in range(chosen.originals)])
                rows[original].append(judged(run_folder, retrained))
    text = tables(collected)
    print(text)
    markdown_file.write(chosen.markdown, text)
