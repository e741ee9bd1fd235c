"""Every method's erasures beside a model that never knew the concept: probes and distances.

    python scripts/gold_table.py --out runs/gold --concepts tower,Ukiyoe
    python scripts/gold_table.py --out runs/gold --methods uce,salun --no-protocol
    python scripts/gold_table.py --out runs/gold-quick --quick --prompts 8

Finished erasures, attacks and evaluations are kept, so that it can be stopped and started
again; gold is attacked once per concept, in OUT/gold/CONCEPT. Prints two tables in Markdown: each
probe's success rate in percent with gold's own in the last row, and the protocol `gold`'s distances
with the un-erased model's and the floor's (a second gold model's) below.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import kept_figures
import markdown_file
from refusals import erasure

METHODS = (
    "esd", "uce", "salun", "uproot", "advunlearn", "gs-lora", "doco", "bounded", "stereo",
    "task-vector",
)  # fmt: skip
ATTACKS = ("completion", "image-prompt", "state-inversion", "inpaint", "noise")
DISTANCES = (
    "judge_distance", "picture_distance", "loss_gap_caption", "loss_gap_empty", "loss_gap_state",
    "divergence", "divergence_kept", "relearn_ratio", "probe",
)  # fmt: skip


def erased(method: str, concept: str, asked: argparse.Namespace) -> Path:
    """The folder of a finished erasure with the method's preset; one-step generators have none."""
    folder: Path = asked.out / method / concept.replace(" ", "_")
    if not (folder / "edit.json").is_file():
        more = ("--weights", asked.gold) if method == "gold" else ()
        erasure("erase", method, "--model", "pocket", "--concept", concept, "--out", folder, *more)
    return folder


def measure(method: str, concept: str, asked: argparse.Namespace) -> dict[str, Any]:
    """What each probe and the protocol say of one erasure."""
    gold, folder = erased("gold", concept, asked), erased(method, concept, asked)
    found: dict[str, Any] = {"attacks": {}, "gold": {}}
    for attack in asked.attacks:
        file = folder / "attacks" / f"{attack}.json"
        if not file.is_file() or "excess" not in json.loads(file.read_text())["scores"]:
            erasure(
                "attack", attack, folder, "--gold", gold, "--seeds", asked.seeds,
                "--prompts", asked.prompts, *(["--quick"] if asked.quick else []),
            )  # fmt: skip
        scores = json.loads(file.read_text())["scores"]
        found["attacks"][attack] = scores["ASR"]["value"]
        found["gold"][attack] = scores["ASR_gold"]["value"]
    if asked.protocol:
        file = folder / "scores" / "gold.json"
        if not file.is_file():
            erasure("evaluate", folder, "--protocol", "gold", "--gold", gold)
        found["record"] = json.loads(file.read_text())
    return found


def tables(found: dict[str, dict[str, dict[str, Any]]], asked: argparse.Namespace) -> list[str]:
    """Markdown, a line per concept and method; gold's and the un-erased model's lines below."""
    lines = ["| concept | method | " + " | ".join(asked.attacks) + " |"]
    lines.append("|" + "---|" * (2 + len(asked.attacks)))
    for concept, methods in found.items():
        for method, cell in methods.items():
            rates = [f"{100 * cell['attacks'][name]:.0f}" for name in asked.attacks]
            lines.append(f"| {concept} | {method} | " + " | ".join(rates) + " |")
        golds = next(iter(methods.values()))["gold"]
        rates = [f"{100 * golds[name]:.0f}" for name in asked.attacks]
        lines.append(f"| {concept} | **gold** | " + " | ".join(rates) + " |")
    if not asked.protocol:
        return lines
    lines += ["", "| concept | method | " + " | ".join(DISTANCES) + " |"]
    lines.append("|" + "---|" * (2 + len(DISTANCES)))
    for concept, methods in found.items():
        for method, cell in methods.items():
            lines.append(f"| {concept} | {method} | {_row(cell['record']['scores'])} |")
        record = next(iter(methods.values()))["record"]
        lines.append(f"| {concept} | **un-erased** | {_row(record['baseline'])} |")
        if concept in record.get("floor", {}):
            lines.append(f"| {concept} | **floor** | {_row(record['floor'][concept])} |")
    return lines


def _row(scores: dict[str, Any]) -> str:
    return " | ".join(f"{scores[n]['value']:.3f}" if n in scores else "-" for n in DISTANCES)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gold"))
    parser.add_argument("--gold", default="pocket-gold", help="a model that never knew them")
    parser.add_argument("--concepts", default="tower,Ukiyoe")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--attacks", default=",".join(ATTACKS))
    parser.add_argument("--seeds", default="188")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="the attacks' quick form")
    parser.add_argument("--protocol", action=argparse.BooleanOptionalAction, default=True)
    markdown_file.add_option(parser)
    options = parser.parse_args()
    kept_figures.refuse_others(parser, options, ("gold", "seeds", "prompts", "quick"))
    options.attacks = options.attacks.split(",")
    measured: dict[str, dict[str, dict[str, Any]]] = {}
    for concept_name in options.concepts.split(","):
        for method_name in options.methods.split(","):
            cell = measure(method_name, concept_name, options)
            measured.setdefault(concept_name, {})[method_name] = cell
    both = "\n".join(tables(measured, options))
    print(both)
    markdown_file.write(options.markdown, both)


if __name__ == "__main__":
    main()
