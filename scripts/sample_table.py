"""Forgetting a random share of real images: every method against retraining.

    python scripts/sample_table.py --data hf:uoft-cs/cifar10 --out runs/cifar10
    python scripts/sample_table.py --data DATA --out runs/small --small

Trains the base with `erasure train`, retrains it without the forgotten images by the same recipe,
lets each method forget them, and judges all under the protocol random-forgetting. What is finished
is kept, so it can be stopped and started again. `--small` is for two cores: 300 images a class at
16 pixels.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import markdown_file

METHODS = {
    "fine-tune": ["--l1", "0", "--epochs-without", "0"],
    "l1-sparse": [],  # fine-tune with its penalty
    "gradient-ascent": [],
    "random-label": [],
    "salun": [],
    "ssd": ["--selection", "10"],  # the paper's for random samples
}
COMMANDS = {"l1-sparse": "fine-tune"}
BASE = ["--epochs", "40", "--label-smoothing", "0"]
SMALL = {
    "images": ["--images", "300", "--test-images", "100"],
    "base": ["--size", "16", "--argument", "channels=16,32,64,128", "--epochs", "30",
             "--label-smoothing", "0", "--batch-size", "64"],
    "fine-tune": ["--batch-size", "64"], "l1-sparse": ["--batch-size", "64"],
    "random-label": ["--batch-size", "64"], "salun": ["--batch-size", "64"],
    "gradient-ascent": ["--batch-size", "64", "--learning-rate", "5e-4"],
}  # fmt: skip
COLUMNS = ("UA", "RA", "TA", "MIA", "gap", "leak", "distance")


def erasure(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "erasure", *map(str, words)], check=True)


def judged(run: Path, reference: Path) -> dict[str, Any]:
    """The record of a run, made if it is not there."""
    file = run / "scores" / "random-forgetting.json"
    if not file.is_file():
        erasure("evaluate", run, "--protocol", "random-forgetting", "--reference", reference)
    return json.loads(file.read_text())


def row(name: str, scores: dict[str, Any], seconds: float | None) -> str:
    """Rates in percent; the leak as it is."""
    cells = []
    for column in COLUMNS:
        score = scores.get(column)
        scale = 1 if column == "leak" else 100
        digits = 2 if column == "leak" else 1
        cells.append("-" if score is None else f"{scale * score['value']:.{digits}f}")
    return (
        f"| {name} | " + " | ".join([*cells, "-" if seconds is None else f"{seconds:.0f}"]) + " |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--share", default="0.1")
    parser.add_argument("--seed", default="0", help="draws the share, and of everything else")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--small", action="store_true", help="for two cores")
    markdown_file.add_option(parser)
    chosen = parser.parse_args()
    small = SMALL if chosen.small else {}
    images = small.get("images", ["--images", "0", "--test-images", "0"])
    base, place = chosen.out / "base", chosen.out / f"seed-{chosen.seed}"
    if not (base / "config.json").is_file():
        erasure("train", chosen.architecture, "--data", chosen.data, "--out", base, *images,
                *small.get("base", BASE))  # fmt: skip
    runs = {name: place / name for name in ["retrain", *chosen.methods.split(",")]}
    for name, run in runs.items():
        if not (run / "edit.json").is_file():
            erasure(
                "forget", COMMANDS.get(name, name), "--model", base, "--data", chosen.data,
                "--random-share", chosen.share, "--seed", chosen.seed, "--watch-every", 0,
                "--out", run, *images, *METHODS.get(name, []), *small.get(name, []),
            )  # fmt: skip
    records = {name: judged(run, runs["retrain"]) for name, run in runs.items()}
    lines = ["| method | " + " | ".join([*COLUMNS, "s"]) + " |"]
    lines += ["|" + "---|" * (len(COLUMNS) + 2)]
    lines += [row("un-erased", records["retrain"]["baseline"], None)]
    lines += [row(name, found["scores"], found["seconds"]) for name, found in records.items()]
    print("\n".join(lines))
    markdown_file.write(chosen.markdown, "\n".join(lines))
