"""One request of several taken back: is its concept drawn again, and are the others still gone.

    python scripts/undo_table.py --out runs/undo
    python scripts/undo_table.py --methods gs-lora --penalties 0,0.1,1 --count 4 --split 2

GS-LoRA takes so many concepts, one request after another, without and with O3's penalty on the
overlap of their adapters (`--orthogonality`), and UCE all of them at once. Each is then taken back
by `erasure undo`, and the rest judged. Of the concept itself and of all others, in percent:
`others` is the lowest UA of a concept that stays erased, `back` how many of the prompts that name
the one taken back, and nothing erased, are drawn right again, in brackets by the un-erased model.
What is finished is kept, so it can be stopped and started again. Prints the table in Markdown.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import kept_figures
import markdown_file
from many_table import METHODS, RATES, SEED, answers, rate
from sequence_table import requests

from erasure import erase
from erasure.undoing import undo
from evaluation import evaluate


def judged(folder: Path, subset: int) -> dict[str, Any]:
    """The record of a run's evaluation, kept beside it."""
    file = folder / "record.json"
    if not file.is_file():
        found = evaluate(folder, seeds=[SEED], subset=str(subset) if subset else None)
        file.write_text(json.dumps(found))
    return json.loads(file.read_text())


def lowest(record: dict[str, Any]) -> str:
    each = {name: part["UA"]["value"] for name, part in record["per_concept"].items()}
    least = min(each, key=lambda name: each[name])
    return f"{100 * each[least]:.0f} {least}"


def lines(method: str, penalty: float | None, asked: argparse.Namespace) -> list[str]:
    kept_as = method if penalty is None else f"{penalty:g}"
    place, names = asked.out / kept_as, requests(asked.count, asked.split)
    whole = place / "whole"
    if not (whole / "edit.json").is_file():
        given = METHODS.get(method, {}) if penalty is None else {"orthogonality": penalty}
        erase("pocket", method, names, out=whole, **given)
    record, head = judged(whole, asked.subset), [method, "-" if penalty is None else kept_as]
    told = [_line([*head, "-"], record, "-")]
    for name in names:
        folder = place / f"without-{name.replace(' ', '-')}"
        if not folder.exists():
            undo(whole, folder, concepts=name)
        record = judged(folder, asked.subset)
        seen = answers(record["labels"], [other for other in names if other != name], name)
        now, then = (sum(right) for right in zip(*seen, strict=True))
        told.append(_line([*head, name], record, f"{now} ({then}) of {len(seen)}"))
    return told


def _line(head: list[str], record: dict[str, Any], back: str) -> str:
    cells = [*head, rate(record, "UA"), lowest(record), back]
    return f"| {' | '.join([*cells, *(rate(record, key) for key in RATES[1:3])])} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/undo"))
    parser.add_argument("--methods", default="gs-lora,uce")
    parser.add_argument("--penalties", default="0,0.1", help="O3's weight, of gs-lora")
    parser.add_argument("--count", type=int, default=4, help="requests")
    parser.add_argument("--split", type=int, default=1)
    parser.add_argument("--subset", type=int, default=0, help="prompts to judge by; 0: all")
    markdown_file.add_option(parser)
    options = parser.parse_args()
    kept_figures.refuse_others(parser, options, ("count", "split", "subset"))
    head = ("method", "penalty", "taken back", "UA of the others", "lowest", "back", *RATES[1:3])
    rows = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name in options.methods.split(","):
        penalties = map(float, options.penalties.split(",")) if name == "gs-lora" else [None]
        for weight in penalties:
            rows += lines(name, weight, options)
    text = "\n".join(rows)
    print(text)
    markdown_file.write(options.markdown, text)
