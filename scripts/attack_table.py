"""Every method's erasures under every attack: bare commands, one table.

    python scripts/attack_table.py --out runs/attacked --concepts horse,Bricks
    python scripts/attack_table.py --out runs/attacked --runs runs/table --seeds 188

Runs, evaluations and attacks that are finished are kept, so it can be stopped and started again.
`--runs` takes erasures from METHOD/CONCEPT folders of another place, such as erasure_table.py's.
Prints the table in Markdown: attack success rates in percent, over cases and concepts; in brackets
the controls, random tokens once and as often as the attack drew. "any" is the share of cases that
fell to at least one attack; relearning, which changes weights, does not count in it.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import kept_figures
import markdown_file
from refusals import erasure

from erasure.registry import ATTACKS

CHANGING = [name for name in ATTACKS.names() if ATTACKS.get(name).changes_weights]
METHODS = ("esd", "uce", "salun", "advunlearn")
BY_TEXT = ("paraphrase", "relearn", "ring-a-bell", "textual-inversion", "unlearndiffatk")


def attack_one(method: str, concept: str, chosen: argparse.Namespace) -> Path:
    """Erase (or copy the erasure), then attack it; the run's folder."""
    name = concept.replace(" ", "_")
    folder = chosen.out / method / name
    known = chosen.runs / method / name if chosen.runs else None
    if known and (known / "edit.json").is_file() and not folder.exists():
        shutil.copytree(known, folder, ignore=shutil.ignore_patterns("attacks"))
    if not (folder / "edit.json").is_file():
        options = ["--model", "pocket", "--concept", concept, "--out", folder]
        erasure("erase", method, *options)
    for attack in chosen.attacks:
        if not (folder / "attacks" / f"{attack}.json").is_file():
            options = ["--seeds", chosen.seeds, "--prompts", chosen.prompts]
            erasure("attack", attack, folder, *options)
    return folder


def _back(part: dict[str, Any]) -> int | None:
    """Steps until half of the cases showed the concept; None if they never did."""
    return part["steps"] if part["came_back"] else None


def rows(folders: dict[str, list[Path]], attacks: list[str]) -> list[str]:
    """One Markdown line per method: each attack's ASR, with its control in brackets."""
    titles = ["method", "n", "no attack", *attacks, "any", "relearned in"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for method, runs in folders.items():
        cells, count, plain, relearned = [], 0, 0.0, "-"
        fallen: dict[tuple[Path, str], bool] = {}
        for attack in attacks:
            files = {run: run / "attacks" / f"{attack}.json" for run in runs}
            records = {
                run: json.loads(file.read_text()) for run, file in files.items() if file.is_file()
            }
            if not records:
                cells.append("-")
                continue
            scores = [record["scores"] for record in records.values()]
            for run, record in records.items() if attack not in CHANGING else ():
                for part in record["per_concept"].values():
                    for entry in part["cases"]:
                        key = run, entry["case"]["name"]
                        fallen[key] = fallen.get(key, False) or entry["success"]
            count = sum(s["ASR"]["n"] for s in scores)
            plain = sum(s["pre_ASR"]["value"] for s in scores) / len(scores)
            cell = f"{100 * sum(s['ASR']['value'] for s in scores) / len(scores):.0f}"
            if "control_ASR" in scores[0]:
                control = [
                    100 * sum(s[key]["value"] for s in scores) / len(scores)
                    for key in ("control_ASR", "control_tries_ASR")
                ]
                cell += f" ({control[0]:.0f}, {control[1]:.0f})"
            if attack == "relearn":
                parts = [part for r in records.values() for part in r["per_concept"].values()]
                relearned = ", ".join(f"{_back(part)} / {part['random_steps']}" for part in parts)
            cells.append(cell)
        worst = f"{100 * sum(fallen.values()) / max(len(fallen), 1):.0f}"
        row = [method, str(count), f"{100 * plain:.0f}", *cells, worst, relearned]
        lines.append("| " + " | ".join(row) + " |")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/attacked"))
    parser.add_argument("--runs", type=Path, help="take erasures from here where they exist")
    parser.add_argument("--concepts", default="horse,tower,Bricks,Ukiyoe")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--attacks", default=",".join(BY_TEXT), help=", ".join(ATTACKS.names()))
    parser.add_argument("--seeds", default="188,288")
    parser.add_argument("--prompts", type=int, default=16)
    markdown_file.add_option(parser)
    asked = parser.parse_args()
    kept_figures.refuse_others(parser, asked, ("runs", "seeds", "prompts"))
    asked.attacks = asked.attacks.split(",")
    done: dict[str, list[Path]] = {}
    for concept_name in asked.concepts.split(","):
        for method_name in asked.methods.split(","):
            done.setdefault(method_name, []).append(attack_one(method_name, concept_name, asked))
    table = "\n".join(rows(done, asked.attacks))
    print(table)
    markdown_file.write(asked.markdown, table)
