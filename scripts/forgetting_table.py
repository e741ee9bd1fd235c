"""Every class-forgetting method on pocket-vit: one request, and a sequence, against retraining.

    python scripts/forgetting_table.py --out runs/forgetting
    python scripts/forgetting_table.py --methods gs-lora,ssd --no-retrain
    python scripts/forgetting_table.py --methods npo,npo:features --parts single

A row NAME:WAY is the method with the options of WAYS. Finished runs are kept, so it can be stopped
and started again. Prints a table in Markdown for each part.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import markdown_file
from refusals import erasure

from erasure.registry import METHODS

SINGLE = ["--class", "cat,dog,bird"]
TASKS = ("house,bear,bird", "butterfly,cat,dog", "fish,flame,flower", "frog,horse,jellyfish")
SEQUENCE = [part for task in TASKS for part in ("--task", task)]
WAYS = {
    "features": ["--keep-by", "features", "--epochs", "10"],
    "weights": ["--keep-by", "weights", "--epochs", "10"],
    "nothing": ["--keep-by", "nothing", "--epochs", "10"],
}
ROWS = [*METHODS.names("classifier"), "random-label:features", "npo:features"]
PARTS = {"single": SINGLE, "sequence": SEQUENCE}
# retraining needs more images than forgetting, and fewer steps where fewer classes remain
RETRAIN = {"single": ["--images", "320"], "sequence": ["--images", "320", "--steps", "600"]}


def run_one(
    method: str, out: Path, request: list[str], options: list[str], more: list[str]
) -> dict[str, Any]:
    """The two commands a user would type; the scores' record."""
    if not (out / "edit.json").is_file():
        asked = ["--model", "pocket-vit", "--out", out, *request, *options]
        erasure("forget", method, *asked)
    erasure("evaluate", out, *more)
    name = "continual" if request[0] == "--task" else "class-forgetting"
    return json.loads((out / "scores" / f"{name}.json").read_text())


def rows(records: dict[str, dict[str, Any]]) -> list[str]:
    """One Markdown line per method, with the columns that any of them has a figure for."""
    names = ("Acc_f", "Acc_o", "Acc_r", "H", "MIA", "distance")
    cells = {
        name: [_percent(record["scores"].get(name, {}).get("value")) for record in records.values()]
        for name in names
    }
    # the deepest dip of what is kept while a request was learned
    cells["on the way"] = [
        _percent(record.get("worst", {}).get("Acc_r")) for record in records.values()
    ]
    cells = {name: column for name, column in cells.items() if set(column) != {"-"}}
    cells["weights touched"] = [f"{100 * r['weights_touched']:.0f} %" for r in records.values()]
    cells["s"] = [f"{record['seconds']:.0f}" for record in records.values()]
    lines = ["| method | " + " | ".join(cells) + " |", "|" + "---|" * (len(cells) + 1)]
    for method, *row in zip(records, *cells.values(), strict=True):
        lines.append("| " + " | ".join([method, *row]) + " |")
    return lines


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/forgetting"))
    parser.add_argument("--methods", default=",".join(ROWS))
    both = ",".join(PARTS)
    parser.add_argument("--parts", default=both, choices=[*PARTS, both])
    parser.add_argument(
        "--retrain", action=argparse.BooleanOptionalAction, default=True,
        help="retrain first, for the distance",
    )  # fmt: skip
    markdown_file.add_option(parser)
    chosen = parser.parse_args()
    parts: list[str] = []
    # s3t deletes single images
    names = [name for name in chosen.methods.split(",") if name not in ("retrain", "s3t")]
    for title, request in ((part, PARTS[part]) for part in chosen.parts.split(",")):
        found: dict[str, dict[str, Any]] = {}
        # one retraining stands for a whole sequence: without all of its classes
        flat = request if title == "single" else ["--class", ",".join(TASKS)]
        gold = chosen.out / "retrain" / title
        if chosen.retrain:
            found["retrain"] = run_one("retrain", gold, flat, RETRAIN[title], [])
        more = ["--reference", str(gold)] if chosen.retrain else []
        for name in names:
            method, _, way = name.partition(":")
            out = chosen.out / name.replace(":", "-") / title
            found[name] = run_one(method, out, request, WAYS.get(way, []), more)
        parts += [f"{title}, `{' '.join(request)}`:", "\n".join(rows(found))]
        print("\n" + "\n\n".join(parts[-2:]))
    markdown_file.write(chosen.markdown, "\n\n".join(parts))
