"""Many of pocket's concepts in one request: what is erased, and what each kept image has lost.

    python scripts/many_table.py --out runs/many             # UCE, three splits of 10 and of 20
    python scripts/many_table.py --counts 1,5,10,15,20 --splits 1 --methods uce,esd
    python scripts/many_table.py --counts 25 --names 4 --own-prompts 1    # a hundred names

A split is a random half of objects and half of styles, by its number. Finished erasures and
evaluations are kept, so it can be stopped and started again. Prints the table in Markdown: percent,
in brackets the un-erased model; and of the kept prompts' images how many are drawn no more, and how
many anew, with the exact p of McNemar's test.
"""

import argparse
import csv
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import markdown_file
from scipy.stats import binomtest

from erasure import erase, load_model
from erasure.concepts import find_concepts
from erasure.config import Value
from erasure.edit import Edit
from erasure.files.storage import atomic
from erasure.models.diffusion.load import POCKET
from erasure_datasets.captions import OBJECT_SYNONYMS, STYLE_SYNONYMS
from evaluation import evaluate
from evaluation.drawing.pocket_plan import catalogue
from evaluation.protocols import pocket

METHODS: dict[str, dict[str, Value]] = {
    "uce": {"preserve_weight": 10.0},
    "esd": {},
    "salun": {},
}
BESIDE = ("concepts.json", "baseline.*", "flow", "gold", "one-step", "style-judge", "vit")
RATES = ("UA", "IRA", "CRA", "CRA_target")
SEED = 188


def drawn_split(count: int, split: int) -> list[str]:
    """So many concepts, objects first; the plain style is none."""
    chance = random.Random(split)
    styles = count // 2
    objects = chance.sample(catalogue().objects, count - styles)
    return sorted(objects) + sorted(chance.sample(catalogue().styles[1:], styles))


def erased_by_names(
    method: str, names: Sequence[str], asked: argparse.Namespace, out: Path
) -> None:
    """Erase each concept by its own name and by synonyms, all towards the concept's anchor.

    Pocket's list would take no name but its own, so it goes as a model that has none. Its prompts
    are three plain ones, or every N-th of the list's with `--own-prompts N`.
    """
    bare = asked.out / "pocket-without-its-list"
    if not bare.is_dir():
        with atomic(bare) as temporary:
            shutil.copytree(POCKET, temporary, ignore=shutil.ignore_patterns(*BESIDE))
    table = asked.out / f"{out.parent.name}-{out.name}.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("concept", "kind", "anchor", "templates"))
        for concept in find_concepts(load_model("pocket"), names):
            words = (OBJECT_SYNONYMS | STYLE_SYNONYMS)[concept.name][: asked.names - 1]
            own = concept.templates[:: asked.own_prompts] if asked.own_prompts else ()
            for word in (concept.name, *words):
                rows.writerow((word, concept.kind, concept.anchor, "|".join(own)))
    erase(str(bare), method, table, out=out, **METHODS[method])


def judged(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """The record of the concepts themselves, in the model that has a list."""
    model = load_model("pocket")
    Edit.load(folder).apply(model)
    return pocket.evaluate(model, folder, concepts=pocket.find_targets(names), seeds=[SEED])


def measured(method: str, count: int, split: int, asked: argparse.Namespace) -> dict[str, Any]:
    """The record of one erasure's evaluation, with the seconds of the erasure."""
    names = drawn_split(count, split)
    word = f"{count}-split-{split}" if asked.names == 1 else f"{count}x{asked.names}-split-{split}"
    word += f"-own-prompts-{asked.own_prompts}" if asked.own_prompts else ""
    folder = asked.out / method / word
    if not (folder / "edit.json").is_file():
        if asked.names == 1:
            erase("pocket", method, names, out=folder, **METHODS[method])
        else:
            erased_by_names(method, names, asked, folder)
    kept = folder / "record.json"
    if not kept.is_file():
        found = evaluate(folder, seeds=[SEED]) if asked.names == 1 else judged(folder, names)
        kept.write_text(json.dumps(found))
    seconds = json.loads((folder / "config.json").read_text())["seconds"]
    return {**json.loads(kept.read_text()), "seconds": seconds}


def answers(
    labels: Sequence[Sequence[int]], concepts: Sequence[str], of: str | None = None
) -> list[tuple[bool, bool]]:
    """(drawn right now, drawn right un-erased) of each image that names none of the concepts.

    Those that name one more alone, if it is given.
    """
    own, before = catalogue(), pocket.shipped_baseline()[0]
    found = []
    for seed, index, *seen in labels:
        pair = own.pairs()[index]
        if {*pair} & {*concepts} or (of is not None and of not in pair):
            continue
        asked = [own.objects.index(pair[0]), own.styles.index(pair[1])]
        found.append((seen == asked, list(before[seed, index][:2]) == asked))
    return found


def rate(record: dict[str, Any], key: str) -> str:
    """In percent, with the un-erased model's in brackets, of which UA has none."""
    if key not in record["scores"]:
        return "-"
    before = record["baseline"].get(key, {}).get("value")
    told = "" if before is None or key == "UA" else f" ({100 * before:.1f})"
    return f"{100 * record['scores'][key]['value']:.1f}{told}"


def line(method: str, count: int, split: int, record: dict[str, Any]) -> str:
    concepts = drawn_split(count, split)
    lowest = min(part["UA"]["value"] for part in record["per_concept"].values())
    cells = [method, str(count), str(split)]
    cells += [rate(record, key) for key in RATES]
    cells.insert(4, f"{100 * lowest:.0f}")
    kept = answers(record["labels"], concepts)
    lost, won = kept.count((False, True)), kept.count((True, False))
    p = binomtest(lost, lost + won).pvalue if lost + won else 1.0
    cells += [f"{lost} and {won} of {len(kept)}, p {p:.2g}", f"{record['seconds']:.2g}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/many"))
    parser.add_argument("--methods", default="uce")
    parser.add_argument("--counts", default="10,20")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument(
        "--names", type=int, default=1, choices=range(1, 5), help="of each concept, with synonyms"
    )
    parser.add_argument(
        "--own-prompts",
        type=int,
        default=0,
        choices=range(17),
        help="with names: every N-th of the list's prompts",
    )
    markdown_file.add_option(parser)
    options = parser.parse_args()
    if options.own_prompts and options.names == 1:
        parser.error("--own-prompts is for --names 2 to 4: one name each goes by the list anyway")
    head = ("method", "concepts", "split", "UA", "lowest UA", *RATES[1:], "lost and won", "seconds")
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for method_name in options.methods.split(","):
        for number in map(int, options.counts.split(",")):
            for split_number in range(1, options.splits + 1):
                found = measured(method_name, number, split_number, options)
                lines.append(line(method_name, number, split_number, found))
    text = "\n".join(lines)
    print(text)
    markdown_file.write(options.markdown, text)
