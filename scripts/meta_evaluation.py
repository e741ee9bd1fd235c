"""Which figure that needs no gold model tells how far an edit is from one?

    python scripts/meta_evaluation.py --out runs/meta                      # hours on a CPU
    python scripts/meta_evaluation.py --out runs/meta --methods uce,esd --at-most 3
    python scripts/meta_evaluation.py --out runs/meta --finished

Erases concepts that a gold model never knew, by several methods at three strengths each: the
steps of a training are its preset's times 0.25, 0.5 and 1; UCE's erase_weight is 0.1, 0.3 and 1.
Every edit gets the figures that any user can have:

- UA, IRA, CRA and CRA_target by the suite's judges; the quick form of five attacks;
- moved: the weights' relative L2 distance from the un-erased model's (`erasure diff`);
- rise_caption, rise_empty: by how much its loss on pictures of the concept, drawn by the un-erased
  model, has risen under their captions and under the empty prompt;

and the two that need gold, of the protocol `gold`: `divergence`, and `relearn_ratio` at one slow
rate. Prints every edit, and each figure's rank correlation (Spearman) with both, over all edits and
as the mean of the concepts' own, in Markdown. What is measured is kept, so it can be stopped and
started again; `--at-most` does so many of what is left, `--finished` measures nothing.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kept_figures
import markdown_file
import numpy as np
from scipy.stats import spearmanr

from erasure import erase
from erasure.comparing.diffing import diff
from erasure.config import Value, resolve
from erasure.files.records import read_record
from erasure.files.storage import write_json
from erasure.models.diffusion.load import read_presets
from erasure.opening import open_run
from erasure.registry import METHODS
from evaluation import attack, evaluate
from evaluation.against_gold.compare import steps_to_relearn
from evaluation.against_gold.three import Three
from evaluation.attacks.relearn import Relearn
from evaluation.drawing.pocket_plan import SEEDS, catalogue
from evaluation.metrics.knowledge import divergence, gap, ratio
from evaluation.protocols import pocket

SHARES = (0.25, 0.5, 1.0)
WEIGHTS = (0.1, 0.3, 1.0)  # of UCE
ATTACKS = ("paraphrase", "completion", "image-prompt", "textual-inversion", "state-inversion")
FEWEST = 3  # edits that a rank correlation is taken of
CASES = 8  # of each attack
SUBSET = 48  # images that are judged, 16 of the concept
RATE = 0.2  # of the relearning preset's
JUDGED = ("UA", "IRA", "CRA", "CRA_target")
CHEAP = (*JUDGED, *ATTACKS, "worst", "moved", "rise_caption", "rise_empty")
TOLD = ("divergence", "relearn_ratio")
MORE_IS_LESS = {*ATTACKS, "worst"}  # known of the concept, where the others have more


def strengths(method: str) -> list[dict[str, Value]]:
    """The settings of the weak, the middle and the full edit."""
    if method == "uce":
        return [{"erase_weight": weight} for weight in WEIGHTS]
    preset, _ = resolve(
        METHODS.get("diffusion", method), given={}, quick=False, presets=_presets(method)
    )
    steps: int = preset.steps  # type: ignore[attr-defined]
    return [{"steps": max(1, round(share * steps))} for share in SHARES]


def _presets(plugin: str) -> Any:
    return read_presets(pocket.POCKET, plugin)


def measure(method: str, given: dict[str, Value], concept: str, folder: Path, gold: Path) -> None:
    """Erase and measure one edit; what there is already is kept by erase, attack and evaluate."""
    more: dict[str, Value] = {"loss": "flat"} if method == "bounded" else {}
    erase("pocket", method, [concept], out=folder, **more, **given)
    three = Three(
        folder, open_run(folder), gold, open_run(gold), catalogue().concept(concept), SEEDS
    )
    scores = evaluate(folder, seeds=SEEDS[:1], subset=SUBSET)["scores"]
    found = {key: scores[key]["value"] for key in JUDGED} | beside_gold(three)
    for name in ATTACKS:
        record = attack(folder, name, prompts=CASES, seeds=SEEDS[:1], quick=True)
        found[name] = record["scores"]["ASR"]["value"]
    found["worst"] = max(found[name] for name in ATTACKS)
    found["moved"] = diff("pocket", folder).relative or 0.0
    write_json(folder / "meta.json", found)


def beside_gold(three: Three) -> dict[str, float]:
    """Divergence and relearning against gold; and how the losses rose, which needs no gold."""
    own, golds, before = (
        three.drawn(who, three.cases, three.folder_name) for who in ("edited", "gold", "original")
    )
    found = {
        "divergence": divergence(
            (three.losses("edited", own), three.losses("gold", own)),
            (three.losses("edited", golds), three.losses("gold", golds)),
        ).value
    }
    for name, prompts in (("caption", before.prompts), ("empty", [""] * len(before.prompts))):
        after, first = (three.losses(w, before, prompts=prompts) for w in ("edited", "original"))
        found[f"rise_{name}"] = gap(after, first).value
    chosen, _ = resolve(
        Relearn, given={"steps": 100, "every": 5}, quick=False, presets=_presets("relearn")
    )
    counts = [steps_to_relearn(three, who, chosen, (RATE,)) for who in ("edited", "gold")]
    return {**found, "relearn_ratio": ratio(counts[0], counts[1], chosen.steps).value}


def tables(found: dict[tuple[str, str, str], dict[str, float]]) -> list[str]:
    """Markdown: the rank correlations, then every edit."""
    lines = ["| figure | " + " | ".join(f"with {name}" for name in TOLD) + " |", "|---|---|---|"]
    for figure in CHEAP:
        lines.append(
            f"| {figure} | " + " | ".join(agreement(found, figure, t) for t in TOLD) + " |"
        )
    lines += ["", "| concept | method | strength | " + " | ".join([*TOLD, *CHEAP]) + " |"]
    lines.append("|" + "---|" * (3 + len(TOLD) + len(CHEAP)))
    for names, one in found.items():
        cells = [cell(name, one[name]) for name in (*TOLD, *CHEAP)]
        lines.append("| " + " | ".join([*names, *cells]) + " |")
    return lines


def cell(name: str, value: float) -> str:
    if name in TOLD or name == "moved" or name.startswith("rise"):
        return f"{value:.3f}"
    return f"{100 * value:.0f}"


def agreement(found: dict[tuple[str, str, str], dict[str, float]], figure: str, told: str) -> str:
    """Spearman's correlation, signed so that 1 ranks the edits as gold does; and by concept."""
    sign = (-1 if figure in MORE_IS_LESS else 1) * (-1 if told == "divergence" else 1)
    groups = [list(found.values())] + [
        [one for names, one in found.items() if names[0] == concept]
        for concept in dict.fromkeys(names[0] for names in found)
    ]
    if min(map(len, groups)) < FEWEST:
        return "too few"
    every, *own = (_correlation([(one[figure], one[told]) for one in part]) for part in groups)
    if every is None or None in own:
        return "all alike"
    first, *rest = (f"{round(sign * (part or 0), 2) + 0.0:.2f}" for part in (every, *own))
    return f"{first} ({', '.join(rest)})"


def _correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    one, other = np.array(pairs).T
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/meta"))
    parser.add_argument("--gold", default="pocket-gold", help="a model that never knew them")
    parser.add_argument("--concepts", default="tower,Ukiyoe")
    parser.add_argument("--methods", default="uce,esd,bounded,salun,uproot,gs-lora")
    parser.add_argument("--at-most", type=int, default=10**9, help="edits in this call")
    parser.add_argument("--finished", action="store_true", help="only edits measured before")
    markdown_file.add_option(parser)
    asked = parser.parse_args()
    kept_figures.refuse_others(parser, asked, ("gold",))
    left = 0 if asked.finished else asked.at_most
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for concept in asked.concepts.split(","):
        for method in asked.methods.split(","):
            for given in strengths(method):
                strength = ", ".join(f"{name} {value}" for name, value in given.items())
                folder = asked.out / concept / f"{method}-{next(iter(given.values()))}"
                file = folder / "meta.json"
                if not file.is_file() and left:
                    gold = asked.out / concept / "gold"
                    erase("pocket", "gold", [concept], out=gold, weights=asked.gold)
                    measure(method, given, concept, folder, gold)
                    left -= 1
                if file.is_file():
                    found[concept, method, strength] = read_record(file, dict[str, float])
    text = "\n".join(tables(found))
    print(text)
    markdown_file.write(asked.markdown, text)


if __name__ == "__main__":
    main()
