"""How far an erasure reaches beyond the prompts that it was made by, method by method.

    python scripts/generalisation_table.py --out runs/generalisation          # an hour on a CPU
    python scripts/generalisation_table.py --concepts horse --methods uce,npo --seeds 188

Each concept is erased by prompts that name it beside every fourth style (of a style: every fourth
object) of the pocket suite, and judged beside all of them: UA_in on those four, UA_out on the
other twelve. Then it is attacked in the `--quick` form of a few probes: `worst` is the rate of the
one that wins most cases. Finished erasures, evaluations and attacks are kept, so it can
be stopped and started again; --finished shows them and measures nothing. Prints the table in
Markdown: percent, with the number of images, and 95 % intervals (Wilson).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import kept_figures
import markdown_file

from erasure.config import Value
from erasure.erasing import erase
from erasure.files.storage import write_json
from evaluation import attack
from evaluation.drawing.pocket_plan import catalogue
from evaluation.evaluating import evaluate
from evaluation.score import wilson

METHODS: dict[str, tuple[str, dict[str, Value]]] = {
    "doco": ("doco", {}),
    "flat": ("bounded", {"loss": "flat"}),
    "ihl": ("bounded", {"loss": "ihl"}),
    "npo": ("bounded", {"loss": "npo"}),
    "ascent": ("bounded", {"loss": "ascent"}),
    "esd": ("esd", {}),
    "salun": ("salun", {}),
    "uce": ("uce", {}),
    "uproot": ("uproot", {}),
}
PROBES = ("paraphrase", "completion", "image-prompt", "textual-inversion")
CASES = 8  # of each probe
EVERY = 4
RATES = ("UA_in", "UA_out", "IRA", "CRA")


def contexts_of(concept: str) -> str:
    """Every fourth name of those that go with the concept, with commas."""
    found = catalogue().concept(concept)
    return ",".join(catalogue().others(found)[::EVERY])


def folder_of(method: str, concept: str, asked: argparse.Namespace) -> Path:
    return asked.out / method / concept.replace(" ", "_")


def seeds_of(asked: argparse.Namespace) -> list[int]:
    return [int(seed) for seed in asked.seeds.split(",")]


def is_finished(method: str, concept: str, asked: argparse.Namespace) -> bool:
    """Whether nothing of a row is still to be measured."""
    folder = folder_of(method, concept, asked)
    files = [folder / f"seed-{seed}.json" for seed in seeds_of(asked)]
    files += [folder / "attacks" / f"{probe}.json" for probe in PROBES]
    return all(file.is_file() for file in files)


def measured(method: str, concept: str, asked: argparse.Namespace) -> dict[str, Any]:
    """The scores of one erasure by seed, and its seconds; made where they are not there yet."""
    folder = folder_of(method, concept, asked)
    if not (folder / "edit.json").is_file():
        word, settings = METHODS[method]
        if word != "uce":  # which solves and has no steps to hasten
            settings = {**settings, "channels_last": True}
        erase("pocket", word, concept, contexts=contexts_of(concept), out=folder, **settings)
    records = []
    for seed in seeds_of(asked):
        kept = folder / f"seed-{seed}.json"
        if not kept.is_file():
            write_json(kept, evaluate(folder, seeds=[seed], subset=asked.subset))
        records.append(json.loads(kept.read_text()))
    seconds = json.loads((folder / "config.json").read_text())["seconds"]
    won = {probe: won_by(probe, folder, seeds_of(asked)[0]) for probe in PROBES}
    return {"records": records, "won": won, "seconds": seconds}


def won_by(probe: str, folder: Path, seed: int) -> float:
    """The share of cases in which a probe in its quick form draws the concept."""
    file = folder / "attacks" / f"{probe}.json"
    if not file.is_file():
        attack(folder, probe, prompts=CASES, seeds=(seed,), quick=True)
    return json.loads(file.read_text())["scores"]["ASR"]["value"]


def pooled(records: list[dict[str, Any]], part: str, key: str) -> tuple[float, int]:
    """A rate over the images of all seeds, and their number."""
    scores = [record[part][key] for record in records]
    count = sum(score["n"] for score in scores)
    return sum(score["value"] * score["n"] for score in scores) / count, count


def cell(share: float, count: int) -> str:
    low, high = wilson(share, count)
    return f"{100 * share:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def table(found: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """Markdown: a line per concept and method, after the un-erased model's."""
    lines: list[str] = []
    for concept, methods in found.items():
        if not methods:
            continue
        first = next(iter(methods.values()))["records"]
        counts = {key: pooled(first, "scores", key)[1] for key in RATES}
        heads = [f"{key} (n {counts[key]})" for key in RATES]
        lines += [
            f"### {concept}",
            "",
            f"| method | {' | '.join(heads)} | worst (n {CASES}) | seconds |",
        ]
        lines.append("|" + "---|" * (len(RATES) + 3))
        cells = [cell(*pooled(first, "baseline", key)) for key in RATES]
        lines.append(f"| un-erased | {' | '.join(cells)} | - | - |")
        for method, one in methods.items():
            cells = [cell(*pooled(one["records"], "scores", key)) for key in RATES]
            probe = max(one["won"], key=one["won"].__getitem__)
            worst = f"{100 * one['won'][probe]:.0f} {probe}" if one["won"][probe] else "0"
            cells += [worst, f"{one['seconds']:.0f}"]
            lines.append(f"| {method} | {' | '.join(cells)} |")
        lines.append("")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/generalisation"))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--concepts", default="fish,Crayon")
    parser.add_argument("--seeds", default="188,288")
    parser.add_argument("--subset", type=int, default=60, help="images judged per seed")
    parser.add_argument("--finished", action="store_true", help="only rows measured before")
    markdown_file.add_option(parser)
    options = parser.parse_args()
    options.first_seed = seeds_of(options)[0]  # which probes are tried with
    kept_figures.refuse_others(parser, options, ("first_seed", "subset"))
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for concept_name in options.concepts.split(","):
        results[concept_name] = {
            method_name: measured(method_name, concept_name, options)
            for method_name in options.methods.split(",")
            if not options.finished or is_finished(method_name, concept_name, options)
        }
    text = "\n".join(table(results))
    print(text)
    markdown_file.write(options.markdown, text)
