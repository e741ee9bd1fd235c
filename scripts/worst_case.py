"""Which of pocket's concepts are the hardest to erase: a search, and what it is worth.

    python scripts/worst_case.py --out runs/worst --count 3
    python scripts/worst_case.py --out runs/worst --count 3 --at-most 5

Searches with `erasure.selection.Selector`: in each round the concepts are erased together, by a few
sign steps on ESD's objective, weighed by w, and l_i is by how much the noise error on held-out
renders of concept i has risen then, over ten timesteps. OUT/concepts.txt has the names, one a line.

Beside it: every concept erased by UCE alone, which ranks them exactly; and the set against random
ones of its size, erased by UCE and by a short ESD, by that rise and by what the judges see in
pictures. What is measured is kept, so it can be stopped and started again; `--at-most` measures so
many cells of what is left. Prints tables in Markdown.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kept_figures
import markdown_file
import numpy as np
import torch
from noised_renders import TIMES, Points, spread_pairs
from refusals import in_a_line
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from erasure import erase, load_model
from erasure.files.records import read_record
from erasure.files.storage import write_json
from erasure.methods.shared.paths import push_rows
from erasure.models.diffusion.model import DiffusionModel
from erasure.selection import Selector, check_count, sign_steps
from erasure.training.progress import shown
from erasure_datasets.canvas import OBJECTS, STYLES
from evaluation.drawing.pocket_plan import catalogue
from evaluation.protocols.pocket import GUIDANCE, SCHEDULER, STEPS, shared_judge

SHORT_ESD = {"steps": 30, "batch_size": 4, "paths": 16}  # the rest is pocket's preset
PUSH = 3.0  # as in the preset
SEED = 188
DECIDING = (
    "count", "images", "rounds", "rate", "steps", "step_size", "batch_size", "points", "seed",
)  # fmt: skip
MEASURES = {"rise": "rise of the noise error", "likely": "the judge's belief", "drawn": "drawn"}


def search(asked: argparse.Namespace) -> None:
    """The bi-level search; writes OUT/selection.json and OUT/concepts.txt."""
    model, names = load_model("pocket"), catalogue().targets()
    generator = torch.Generator().manual_seed(asked.seed)
    own, held_out = (
        Points(model, names, each, split)
        for each, split in ((asked.points, "train"), (2 * len(TIMES), "validation"))
    )
    targets, before = esd_targets(model, own), held_out.errors(model)
    weights = model.weights("xattn")

    def losses(w: Tensor) -> Tensor:
        def loss() -> Tensor:
            concepts = torch.multinomial(w, asked.batch_size, replacement=True, generator=generator)
            within = torch.randint(own.each, (asked.batch_size,), generator=generator)
            at = (concepts * own.each + within).tolist()
            return F.mse_loss(own.predict(model, at), targets[at])

        with sign_steps(weights, loss, steps=asked.steps, size=asked.step_size):
            return held_out.errors(model) - before

    found = Selector(rounds=asked.rounds, rate=asked.rate).select(losses, len(names), asked.count)
    chosen = [names[index] for index in found.chosen]
    (asked.out / "concepts.txt").write_text("".join(f"{name}\n" for name in chosen))
    write_json(asked.out / "selection.json", {
        "chosen": chosen, "weights": found.weights.tolist(), "losses": found.losses.tolist(),
    })  # fmt: skip


@torch.no_grad()
def esd_targets(model: DiffusionModel, own: Points) -> Tensor:
    """What ESD asks for at every point: eps(c) - push (eps(the concept's name) - eps(''))."""
    found = []
    for name in shown(own.names, "asking the original model"):
        first = own.names.index(name) * own.each
        at = list(range(first, first + own.each))
        pushed = push_rows([catalogue().concept(name)], "concept")[0][2]
        start, away, none = (
            own.predict(model, at, p) for p in ((), [pushed] * own.each, [""] * own.each)
        )
        found.append(start - PUSH * (away - none))
    return torch.cat(found)


def measure(method: str, names: Sequence[str], place: Path, images: int) -> None:
    """Erase a set; how far its noise error rises, and what the judges see of each concept."""
    model = load_model("pocket")
    points = Points(model, names, 2 * len(TIMES), "validation")
    before, given = points.errors(model), SHORT_ESD if method == "esd" else {}
    model = erase(model, method, names, out=place.with_suffix(""), **given).model  # type: ignore[arg-type]
    found = {"names": list(names), "rise": float((points.errors(model) - before).mean())}
    if images:
        seen = torch.cat([judged(model, name, images) for name in names])
        found |= {"likely": float(seen[:, 0].mean()), "drawn": float(seen[:, 1].mean())}
    write_json(place, {**found, "images": images * len(names)})


def judged(model: Any, name: str, images: int) -> Tensor:
    """(images, 2): the judge's belief in a concept that the prompts name, and whether it wins."""
    model.use_scheduler(SCHEDULER)
    pairs = spread_pairs(name, images)
    drawn = model.generate(
        [catalogue().prompt(*pair) for pair in pairs], steps=STEPS, guidance=GUIDANCE,
        generators=[torch.Generator().manual_seed(SEED + number) for number in range(images)],
    )  # fmt: skip
    kind, labels = ("style-judge", STYLES) if name in STYLES else ("vit", OBJECTS)
    judge, own = shared_judge(kind), labels.index(name)
    seen = judge.predict(judge.cut(drawn))
    return torch.stack([seen[:, own], (seen.argmax(1) == own).float()], 1)


def cells(asked: argparse.Namespace) -> list[tuple[str, list[str], Path, int]]:
    """All that is measured beside the search: method, names, record, images of each concept."""
    names = catalogue().targets()
    chosen = read_record(asked.out / "selection.json", dict[str, Any])["chosen"]
    rng = np.random.default_rng(asked.seed)
    sets = [
        chosen,
        *(list(map(str, rng.choice(names, asked.count, replace=False))) for _ in range(asked.sets)),
    ]
    found = [
        ("uce", [name], asked.out / "alone" / f"{name.replace(' ', '_')}.json", 2 * asked.images)
        for name in names
    ]
    for method, images in (("uce", 0), ("esd", asked.images)):
        found += [
            (method, some, asked.out / method / f"{number}.json", images)
            for number, some in enumerate(sets)
        ]
    return found


def tables(asked: argparse.Namespace) -> list[str]:
    """Markdown: the search beside the exact ranking, and the set beside random ones."""
    places = [place for _, _, place, _ in cells(asked) if place.is_file()]
    done = {place: read_record(place, dict[str, Any]) for place in places}

    def of(folder: str) -> list[dict[str, Any]]:
        return [found for place, found in done.items() if place.parent.name == folder]

    record = read_record(asked.out / "selection.json", dict[str, Any])
    lines = [f"Chosen: {', '.join(record['chosen'])}."]
    if len(of("alone")) == len(catalogue().targets()):
        lines += ranking(record, of("alone"), asked.count)
    heads = "method", "measure", "chosen", "random: median", "hardest tenth", "random sets below"
    lines += ["", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for method in ("uce", "esd"):
        is_chosen_done = asked.out / method / "0.json" in done  # the first of the sets
        for key in MEASURES:
            values = [found[key] for found in of(method) if key in found]
            if is_chosen_done and len(values) > 2:
                lines.append(f"| {method} | {beside_random(key, values)} |")
    return lines


def ranking(record: dict[str, Any], alone: list[dict[str, Any]], count: int) -> list[str]:
    """How the search's weights and losses rank the concepts beside UCE of each alone."""
    hardest = [found["names"][0] for found in sorted(alone, key=lambda found: found["rise"])]
    lines = [
        f"Hardest for UCE alone, by the rise: {', '.join(hardest[:count])}.", "",
        "| rank correlation of | with UCE's rise | with UCE's belief |", "|---|---|---|",
    ]  # fmt: skip
    weights, losses = (np.array(record[key]) for key in ("weights", "losses"))
    ranked = {"mean weight": weights.mean(0), "low rise at equal weights": -losses[0]}
    for what, values in ranked.items():
        cells = [
            f"{spearmanr(values, [sign * found[key] for found in alone]).statistic:.2f}"
            for key, sign in (("rise", -1), ("likely", 1))
        ]
        lines.append("| " + " | ".join([what, *cells]) + " |")
    return lines


def beside_random(key: str, values: Sequence[float]) -> str:
    """A row's cells: the chosen set's value, which is the first, beside the random sets'."""
    first, rest = values[0], np.array(values[1:])
    sign = -1 if key == "rise" else 1  # a low rise is hard
    numbers = first, np.median(rest), sign * np.quantile(sign * rest, 0.9)
    told = [f"{number:.4f}" if key == "rise" else f"{100 * number:.0f}" for number in numbers]
    below = int((sign * rest < sign * first).sum())
    return " | ".join([MEASURES[key], *told, f"{below} of {len(rest)}"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/worst"))
    parser.add_argument("--count", type=int, default=3, help="concepts to choose")
    parser.add_argument("--sets", type=int, default=20, help="random sets beside the chosen one")
    parser.add_argument("--images", type=int, default=4, help="of each concept of a set")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.2, help="of the weights")
    parser.add_argument("--steps", type=int, default=20, help="sign steps in a round")
    parser.add_argument("--step-size", type=float, default=5e-4)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--points", type=int, default=16, help="training points of a concept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-most", type=int, default=10**9, help="cells in this call")
    markdown_file.add_option(parser)
    asked = parser.parse_args()
    with in_a_line():
        check_count(asked.count, len(catalogue().targets()))
        kept_figures.refuse_others(parser, asked, DECIDING)
        asked.out.mkdir(parents=True, exist_ok=True)
        if not (asked.out / "selection.json").is_file():
            search(asked)
        left = [cell for cell in cells(asked) if not cell[2].is_file()]
        for cell in left[: asked.at_most]:
            measure(*cell)
    table = "\n".join(tables(asked))
    print(table)
    markdown_file.write(asked.markdown, table)


if __name__ == "__main__":
    main()
