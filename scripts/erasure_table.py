"""Every method on every concept of the pocket suite, one request each, judged by protocol `pocket`.

    python scripts/erasure_table.py --out runs/table                    # everything: hours on a CPU
    python scripts/erasure_table.py --out runs/table --concepts cat,horse,Winter --methods uce

Finished erasures and evaluations are kept, so it can be stopped and started again. Prints the table
in Markdown.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from erasure.errors import SettingError
from evaluation.evaluating import read_scores
from evaluation.protocols.pocket import catalogue

METHODS = ("salun", "esd", "uce")
KEYS = ("UA", "IRA", "CRA", "CRA_target")


def run_one(method: str, concept: str, out: Path, subset: int | None) -> None:
    """The two bare commands a user would type."""
    folder = out / method / concept.replace(" ", "_")
    name = "pocket" if subset is None else f"pocket-{subset}-subset"
    if (folder / "scores" / f"{name}.json").is_file():
        return
    program = [sys.executable, "-m", "erasure"]
    subprocess.run(
        [*program, "erase", method, "--model", "pocket", "--concept", concept, "--out", folder],
        check=True,
    )
    more = [] if subset is None else ["--subset", str(subset)]
    subprocess.run([*program, "evaluate", folder, *more], check=True)


def rows(methods: list[str], out: Path, protocol: str) -> list[str]:
    """One Markdown line per method and kind of concept, with the worst concept of each figure."""
    lines = [
        "| method | kind | n | UA | IRA | CRA | CRA_target | s | worst UA |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
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
            seconds = [float(_seconds(found[name])) for name in records]
            worst = min(records, key=lambda name: records[name]["UA"]["value"])
            cells = [
                method,
                kind,
                str(len(records)),
                *(f"{m:.1f}" for m in means),
                f"{sum(seconds) / len(seconds):.0f}",
            ]
            lines.append(
                "| "
                + " | ".join([*cells, f"{worst} {100 * records[worst]['UA']['value']:.0f}"])
                + " |"
            )
    return lines


def _seconds(folder: Path) -> float:
    import json

    return json.loads((folder / "config.json").read_text())["seconds"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/table"))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--concepts", default=",".join(catalogue().targets()))
    parser.add_argument("--subset", type=int, help="judge only this many images each")
    chosen = parser.parse_args()
    for concept_name in chosen.concepts.split(","):
        for method_name in chosen.methods.split(","):
            run_one(method_name, concept_name, chosen.out, chosen.subset)
    print(
        "\n".join(
            rows(
                chosen.methods.split(","),
                chosen.out,
                "pocket" if chosen.subset is None else f"pocket-{chosen.subset}-subset",
            )
        )
    )
