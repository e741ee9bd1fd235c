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

and the three that need gold, of the protocol `gold`: `divergence`, `relearn_ratio` at one slow
rate, and `loss_gap_empty`, below 0 where it remembers and above where it is over-erased; that one
both as it is and by its distance from 0. Prints each figure's rank correlation (Spearman) with
being near gold by each of them, over all edits and in brackets each concept's own, and every edit,
with gold itself below, in Markdown. A dash: they are the same for all, or of fewer than three. What
is measured is kept, so it can be stopped and started again; `--at-most` does so many of what is
left, `--finished` measures nothing.
"""

import argparse
from collections.abc import Callable, Sequence
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
RATES = {"object": 0.2, "style": 1.0}  # of the relearning preset's; styles come back slowly
JUDGED = ("UA", "IRA", "CRA", "CRA_target")
CHEAP = (*JUDGED, *ATTACKS, "worst", "moved", "rise_caption", "rise_empty")
Found = dict[tuple[str, str, str], dict[str, float]]  # by concept, method and strength
DISTANCES = ("divergence", "relearn_ratio", "loss_gap_empty")
NEARNESS: dict[str, Callable[[dict[str, float]], float]] = {  # what is larger the nearer to gold
    "divergence": lambda one: -one["divergence"],
    "relearn_ratio": lambda one: one["relearn_ratio"],
    "loss_gap_empty": lambda one: one["loss_gap_empty"],
    "its distance from 0": lambda one: -abs(one["loss_gap_empty"]),
}
MORE_IS_LESS = {*ATTACKS, "worst"}  # known of the concept, where the others have more


def strengths(method: str, weights: str) -> list[dict[str, Value]]:
    """The settings of the weak, the middle and the full edit; gold has one."""
    if method == "gold":
        return [{"weights": weights}]
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
    """The distances from gold; and how the losses rose, which needs no gold."""
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
    held_out = three.held_out()
    empty = [""] * len(held_out.prompts)
    curves = [three.losses(who, held_out, prompts=empty) for who in ("edited", "gold")]
    found["loss_gap_empty"] = gap(curves[0], curves[1]).value
    chosen, _ = resolve(
        Relearn, given={"steps": 100, "every": 5}, quick=False, presets=_presets("relearn")
    )
    rates = (RATES[three.concept.kind],)
    counts = [steps_to_relearn(three, who, chosen, rates) for who in ("edited", "gold")]
    relearned = ratio(counts[0], counts[1], chosen.steps)
    return found if relearned is None else {**found, "relearn_ratio": relearned.value}


def tables(found: Found) -> list[str]:
    """Markdown: the rank correlations, then every edit."""
    lines = [
        "| figure | " + " | ".join(f"with {name}" for name in NEARNESS) + " |",
        "|---" * (1 + len(NEARNESS)) + "|",
    ]
    for figure in CHEAP:
        cells = [agreement(found, figure, told) for told in NEARNESS]
        lines.append("| " + " | ".join([figure, *cells]) + " |")
    lines += ["", "| concept | method | strength | " + " | ".join([*DISTANCES, *CHEAP]) + " |"]
    lines.append("|" + "---|" * (3 + len(DISTANCES) + len(CHEAP)))
    for names, one in found.items():
        cells = [cell(name, one[name]) if name in one else "-" for name in (*DISTANCES, *CHEAP)]
        lines.append("| " + " | ".join([*names, *cells]) + " |")
    return lines


def cell(name: str, value: float) -> str:
    if name in DISTANCES or name == "moved" or name.startswith("rise"):
        return f"{value:.3f}"
    return f"{100 * value:.0f}"


def agreement(found: Found, figure: str, told: str) -> str:
    """Spearman's correlation, signed so that 1 ranks the edits as gold does; and by concept."""
    sign = -1 if figure in MORE_IS_LESS else 1
    key = told if told in DISTANCES else "loss_gap_empty"
    edits = {names: one for names, one in found.items() if names[1] != "gold" and key in one}
    groups = [list(edits.values())] + [
        [one for names, one in edits.items() if names[0] == concept]
        for concept in dict.fromkeys(names[0] for names in edits)
    ]
    every, *own = (
        _correlation([(sign * one[figure], NEARNESS[told](one)) for one in part]) for part in groups
    )
    cells = ["-" if part is None else f"{round(part, 2) + 0.0:.2f}" for part in (every, *own)]
    return f"{cells[0]} ({', '.join(cells[1:])})"


def _correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    if len(pairs) < FEWEST:
        return None
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
    found: Found = {}
    for concept in asked.concepts.split(","):
        gold = asked.out / concept / "gold"
        for method in [*asked.methods.split(","), "gold"]:
            for given in strengths(method, asked.gold):
                (name, value), *_ = given.items()
                folder = gold if method == "gold" else gold.with_name(f"{method}-{value}")
                file = folder / "meta.json"
                if not file.is_file() and left:
                    erase("pocket", "gold", [concept], out=gold, weights=asked.gold)
                    measure(method, given, concept, folder, gold)
                    left -= 1
                if file.is_file():
                    strength = "" if method == "gold" else f"{name} {value}"
                    found[concept, method, strength] = read_record(file, dict[str, float])
    text = "\n".join(tables(found))
    print(text)
    markdown_file.write(asked.markdown, text)


if __name__ == "__main__":
    main()
