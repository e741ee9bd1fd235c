"""Requests that come one after another: what each has left of what was gone, and of the rest.

    python scripts/sequence_table.py --out runs/sequence                       # UCE, 4 and 8
    python scripts/sequence_table.py --methods uce,gs-lora,uproot --counts 4 --split 2

Every request is one concept, erased from the run of the one before (`erase --model RUN`). After so
many requests all concepts so far are judged, and attacked with the quick form of two probes:
`weakest` is the rate of the probe and concept that fell most. `apart` is the relative distance of
the model from one that lost all of them in one request, beside that request's own from the
un-erased model. Finished erasures, evaluations and attacks are kept, so it can be stopped and
started again. Prints the table in Markdown: percent, in brackets the un-erased model.
"""

import argparse
import json
import random
from pathlib import Path

import markdown_file
from many_table import METHODS, RATES, SEED, drawn_split, rate

from erasure import erase
from erasure.comparing.diffing import diff
from evaluation import attack, evaluate
from evaluation.score import wilson

PROBES = ("paraphrase", "completion")
CASES = 8
CLOSED_FORMS = ("uce",)


def requests(count: int, split: int) -> list[str]:
    """So many concepts of the split, objects and styles mixed; a longer list begins alike."""
    names = drawn_split(20, split)
    return random.Random(split).sample(names, len(names))[:count]


def erased(method: str, count: int, asked: argparse.Namespace) -> Path:
    """The run in which the last of so many requests was erased, on top of the others."""
    place, below = asked.out / method, "pocket"
    for number, concept in enumerate(requests(count, asked.split), start=1):
        folder = place / f"{number}-split-{asked.split}"
        if not (folder / "edit.json").is_file():
            erase(below, method, [concept], out=folder, **METHODS.get(method, {}))
        below = str(folder)
    return Path(below)


def at_once(method: str, count: int, asked: argparse.Namespace) -> Path:
    folder: Path = asked.out / method / f"{count}-at-once-split-{asked.split}"
    if not (folder / "edit.json").is_file():
        names = requests(count, asked.split)
        erase("pocket", method, names, out=folder, **METHODS.get(method, {}))
    return folder


def line(method: str, count: int, asked: argparse.Namespace) -> str:
    folder = erased(method, count, asked)
    kept = folder / "record.json"
    if not kept.is_file():
        kept.write_text(json.dumps(evaluate(folder, seeds=[SEED])))
    record = json.loads(kept.read_text())
    lowest = min(record["per_concept"], key=lambda name: record["per_concept"][name]["UA"]["value"])
    cells = [method, str(count), rate(record, "UA")]
    cells.append(f"{100 * record['per_concept'][lowest]['UA']['value']:.0f} {lowest}")
    cells += [rate(record, key) for key in RATES[1:]]
    cells.append(weakest(folder))
    cells.append(apart(method, count, asked))
    seconds = json.loads((folder / "config.json").read_text())["seconds"]
    return f"| {' | '.join([*cells, f'{seconds:.2g}'])} |"


def apart(method: str, count: int, asked: argparse.Namespace) -> str:
    if method not in CLOSED_FORMS:
        return "-"
    folder, whole = erased(method, count, asked), at_once(method, count, asked)
    return f"{diff(folder, whole).relative:.2g} of {diff('pocket', whole).relative:.2g}"


def weakest(folder: Path) -> str:
    """The probe and the concept with the most cases won, and the interval of that rate."""
    won: dict[tuple[str, str], float] = {}
    for probe in PROBES:
        found = attack(folder, probe, prompts=CASES, seeds=(SEED,), quick=True)
        for concept, part in found["per_concept"].items():
            won[concept, probe] = part["scores"]["ASR"]["value"]
    (concept, probe), most = max(won.items(), key=lambda item: item[1])
    low, high = wilson(most, CASES)
    return f"{100 * most:.0f} [{100 * low:.0f}, {100 * high:.0f}] {concept}, {probe}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/sequence"))
    parser.add_argument("--methods", default="uce")
    parser.add_argument("--counts", default="4,8")
    parser.add_argument("--split", type=int, default=1)
    markdown_file.add_option(parser)
    options = parser.parse_args()
    head = ("method", "requests", "UA", "lowest UA", *RATES[1:], f"weakest (n {CASES})", "apart")
    lines = [f"| {' | '.join(head)} | seconds of the last |", "|" + "---|" * (len(head) + 1)]
    for method_name in options.methods.split(","):
        for number in map(int, options.counts.split(",")):
            lines.append(line(method_name, number, options))
    text = "\n".join(lines)
    print(text)
    markdown_file.write(options.markdown, text)
