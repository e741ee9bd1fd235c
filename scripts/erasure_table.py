"""Every method on every concept of the pocket suite, one request each, judged by protocol `pocket`.

    python scripts/erasure_table.py --out runs/table                    # everything: hours on a CPU
    python scripts/erasure_table.py --out runs/table --concepts cat,horse,Winter --methods uce
    python scripts/erasure_table.py --out runs/flow --model pocket-flow --subset 96 --each

Finished erasures and evaluations are kept, so it can be stopped and started again. Prints the table
in Markdown: means over the concepts in percent, the concept with the lowest UA, and the least and
the most seconds of an erasure; or with `--each` a line per concept.
"""

import argparse
import json
from pathlib import Path

import kept_figures
import markdown_file
from refusals import erasure

from erasure.errors import SettingError
from evaluation.evaluating import read_scores
from evaluation.protocols.pocket import catalogue

METHODS = ("salun", "esd", "uce")
KEYS = ("UA", "IRA", "CRA", "CRA_target")


def run_one(model: str, method: str, concept: str, out: Path, subset: int | None) -> None:
    """The two bare commands a user would type."""
    folder = out / method / concept.replace(" ", "_")
    name = "pocket" if subset is None else f"pocket-{subset}-subset"
    if (folder / "scores" / f"{name}.json").is_file():
        return
    erasure("erase", method, "--model", model, "--concept", concept, "--out", folder)
    erasure("evaluate", folder, *([] if subset is None else ["--subset", subset]))


def rows(methods: list[str], out: Path, protocol: str) -> list[str]:
    """One Markdown line per method and kind of concept."""
    heads = ("method", "kind", "concepts", *KEYS, "lowest UA", "seconds")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for method in methods:
        for kind, names in (("object", catalogue().objects), ("style", catalogue().styles[1:])):
            found = {name: out / method / name.replace(" ", "_") for name in names}
            records = {}
            for name, folder in found.items():
                try:
                    records[name] = read_scores(folder, protocol)["scores"]
                except SettingError:
                    continue
            if not records:
                continue
            means = [
                100 * sum(r[key]["value"] for r in records.values()) / len(records) for key in KEYS
            ]
            worst = min(records, key=lambda name: records[name]["UA"]["value"])
            cells = [
                method, kind, str(len(records)), *(f"{mean:.1f}" for mean in means),
                f"{worst} {100 * records[worst]['UA']['value']:.0f}",
                _range([_seconds(found[name]) for name in records]),
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def lines_of_each(methods: list[str], out: Path, protocol: str) -> list[str]:
    """One Markdown line per method and concept; in brackets the un-erased model."""
    heads = ("method", "concept", *KEYS, "seconds")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for method in methods:
        for folder in sorted((out / method).iterdir()):
            try:
                record = read_scores(folder, protocol)
            except SettingError:
                continue
            cells = [method, ", ".join(record["per_concept"])]
            for key in KEYS:
                before = record["baseline"][key]["value"]
                told = "" if key == "UA" else f" ({100 * before:.1f})"
                cells.append(f"{100 * record['scores'][key]['value']:.1f}{told}")
            lines.append("| " + " | ".join([*cells, _range([_seconds(folder)])]) + " |")
    return lines


def _range(seconds: list[float]) -> str:
    ends = (min(seconds), max(seconds))
    low, high = (f"{value:.2g}" if value < 10 else f"{value:.0f}" for value in ends)
    return low if low == high else f"{low} to {high}"


def _seconds(folder: Path) -> float:
    return json.loads((folder / "config.json").read_text())["seconds"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/table"))
    parser.add_argument("--model", default="pocket", help="a model of pocket's concepts")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--concepts", default=",".join(catalogue().targets()))
    parser.add_argument("--subset", type=int, help="judge only this many images each")
    parser.add_argument("--each", action="store_true", help="a line per concept")
    markdown_file.add_option(parser)
    chosen = parser.parse_args()
    kept_figures.refuse_others(parser, chosen, ("model",))
    for concept_name in chosen.concepts.split(","):
        for method_name in chosen.methods.split(","):
            run_one(chosen.model, method_name, concept_name, chosen.out, chosen.subset)
    name = "pocket" if chosen.subset is None else f"pocket-{chosen.subset}-subset"
    made = lines_of_each if chosen.each else rows
    table = "\n".join(made(chosen.methods.split(","), chosen.out, name))
    print(table)
    markdown_file.write(chosen.markdown, table)
