"""How often a random part's 95 % interval holds the whole's score, on finished pocket records.

    python scripts/subset_coverage.py [runs/cat/scores/pocket.json ...] --subset 6x6 --seeds 1

A record has the judged label of every image, so a part of it costs nothing: styles, objects and
seeds are drawn at random, scored as `--subset` does, and compared with the score of the whole.
Beside it stands Wilson's interval on the number of images, as if they were independent.
"""

import argparse
import json
import random
from pathlib import Path

import torch

from erasure.models.built_in import POCKET
from evaluation.metrics.accuracy import Judged, Target, accuracy_scores, plain_rate
from evaluation.metrics.subset import Axis, parse_subset, subset_rate
from evaluation.protocols import pocket
from evaluation.score import Score


def read_record(file: Path) -> tuple[Judged, torch.Tensor, list[Target]]:
    """What was asked and seen, each image's seed, and the targets; of a record or a baseline."""
    record = json.loads(file.read_text())
    rows = record["labels"]
    if isinstance(rows, dict):  # a shipped baseline's, by seed
        rows = [[int(s), i, *row[:2]] for s, part in rows.items() for i, row in enumerate(part)]
    table = torch.tensor(rows)
    styles, objects = pocket.catalogue().styles, pocket.catalogue().objects
    judged = Judged(table[:, 1] // len(styles), table[:, 1] % len(styles), table[:, 2], table[:, 3])
    targets = [
        Target(name, name in styles, (styles if name in styles else objects).index(name))
        for name in record.get("per_concept", {})
    ]
    return judged, table[:, 0], targets


def coverage(
    judged: Judged, seeds: torch.Tensor, targets: list[Target], *, subset: tuple[int, int],
    seeds_drawn: int = 1, repeats: int = 1000,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """For each score: the whole's value, and covered share and mean width of both intervals."""
    rng, found = random.Random(0), {}
    asked = (judged.asked_styles, judged.asked_objects)
    gone = [{t.label for t in targets if t.is_style == style} for style in (True, False)]
    others = [sorted(set(labels.tolist()) - out) for labels, out in zip(asked, gone, strict=True)]
    every = sorted(set(seeds.tolist()))
    whole, _ = accuracy_scores(judged, targets)
    tally = {name: {"covered": 0, "width": 0.0, "plain": 0, "plain_width": 0.0} for name in whole}
    for _ in range(repeats):
        drawn = [
            tuple(rng.sample(labels, min(count, len(labels))))
            for labels, count in zip(others, subset, strict=True)
        ]
        picked = torch.isin(seeds, torch.tensor(rng.sample(every, seeds_drawn)))
        for labels, out, part in zip(asked, gone, drawn, strict=True):
            picked &= torch.isin(labels, torch.tensor([*out, *part]))
        part = Judged(*(field[picked] for field in vars(judged).values()))
        axes = [
            Axis(labels[picked], labels_drawn, len(known))
            for labels, labels_drawn, known in zip(asked, drawn, others, strict=True)
        ]
        share = seeds_drawn / len(every)
        honest, _ = accuracy_scores(
            part,
            targets,
            rate_of=lambda hits, where: subset_rate(hits, where, axes, share),  # noqa: B023
        )
        plain, _ = accuracy_scores(part, targets, rate_of=plain_rate)
        for name, score in whole.items():
            tally[name]["covered"] += _holds(honest[name], score.value)
            tally[name]["plain"] += _holds(plain[name], score.value)
            tally[name]["width"] += _width(honest[name])
            tally[name]["plain_width"] += _width(plain[name])
    for name, sums in tally.items():
        found[name] = {"value": whole[name].value, **{k: v / repeats for k, v in sums.items()}}
    return found


def _holds(score: Score, value: float) -> bool:
    assert score.low is not None
    assert score.high is not None
    return score.low - 1e-6 <= value <= score.high + 1e-6


def _width(score: Score) -> float:
    return (score.high or 0.0) - (score.low or 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", nargs="*", type=Path, help="default: the shipped baselines")
    parser.add_argument("--subset", default="6x6", help="styles x objects beside the targets")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds a part has")
    parser.add_argument("--repeats", type=int, default=1000)
    given = parser.parse_args()
    shipped = [POCKET / "baseline.json", POCKET / "one-step" / "baseline.json"]
    for file in given.records or shipped:
        judged, seeds, targets = read_record(file)
        table = coverage(
            judged, seeds, targets, subset=parse_subset(given.subset), seeds_drawn=given.seeds,
            repeats=given.repeats,
        )  # fmt: skip
        print(f"{file}: {given.subset}, {given.seeds} seed(s), {given.repeats} parts")
        for name, row in table.items():
            print(
                f"  {name:>10} {row['value']:.3f}  covered {row['covered']:.3f} "
                f"(width {row['width']:.2f})  as if independent {row['plain']:.3f} "
                f"({row['plain_width']:.2f})"
            )


if __name__ == "__main__":
    main()
