"""SalUn over the share of weights that its mask lets change, for every score a mask can rank.

    python scripts/mask_curve.py --out runs/masks --concept fish
    python scripts/mask_curve.py --out runs/masks --concept fish --steps 40 --subset 48 --at-most 1

Finished erasures, evaluations and attacks are kept, so it can be stopped and started again;
`--at-most` does so many of the cells left and stops. Prints the table in Markdown: rates in
percent, with the un-erased model in the last row; completion in its `--quick` form; and how much of
each mask lies in the mask of the gradient's magnitude with the same share.
"""

import argparse
from pathlib import Path
from typing import Any

import kept_figures
import markdown_file

from erasure import erase
from erasure.files.storage import read_tensors
from evaluation import attack, evaluate
from evaluation.evaluating import read_scores

SCORES = ("magnitude", "wagle", "random")
KEYS = ("UA", "IRA", "CRA", "CRA_target")
SEED = 188


def folder_of(score: str, keep: float, asked: argparse.Namespace) -> Path:
    return asked.out / asked.concept.replace(" ", "_") / f"{score}-{keep:g}"


def is_done(folder: Path) -> bool:
    return (folder / "attacks" / "completion.json").is_file()


def measure(score: str, keep: float, asked: argparse.Namespace) -> None:
    """One cell: erase, judge, probe."""
    folder = folder_of(score, keep, asked)
    wanted = {name: getattr(asked, name) for name in ("steps", "forget_images", "retain_images")}
    given = {name: value for name, value in wanted.items() if value is not None}
    erase("pocket", "salun", [asked.concept], out=folder, score=score, keep=keep, **given)
    evaluate(folder, seeds=(SEED,), subset=asked.subset)
    attack(folder, "completion", prompts=asked.prompts, seeds=(SEED,), quick=True)


def rows(asked: argparse.Namespace) -> list[str]:
    """One Markdown line per cell that is done, and the un-erased model's."""
    heads = ("score", "kept", *KEYS, "completion", "in magnitude's mask")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    before: dict[str, Any] = {}
    for score in asked.scores:
        for keep in asked.keeps:
            folder = folder_of(score, keep, asked)
            if not is_done(folder):
                continue
            record = read_scores(folder, "pocket-subset")
            before = record["baseline"]
            probe = attack(
                folder, "completion", prompts=asked.prompts, seeds=(SEED,), quick=True
            )  # fmt: skip
            rate = probe["scores"]["ASR"]
            cells = [
                score, f"{keep:g}", *_percents(record["scores"]),
                f"{round(rate['value'] * rate['n'])} of {rate['n']}",
                _shared(folder, folder_of("magnitude", keep, asked)),
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    if before:
        lines.append("| " + " | ".join(["un-erased", "", *_percents(before), "", ""]) + " |")
    return lines


def _percents(scores: dict[str, Any]) -> list[str]:
    return [f"{100 * scores[key]['value']:.1f}" if key in scores else "-" for key in KEYS]


def _shared(folder: Path, other: Path) -> str:
    """The share of a mask's weights that another mask has too."""
    if not (other / "mask.safetensors").is_file():
        return "-"
    (mask, _), (known, _) = (read_tensors(f / "mask.safetensors") for f in (folder, other))
    both = sum(int((mask[name] & known[name]).sum()) for name in mask)
    return f"{both / sum(int(part.sum()) for part in mask.values()):.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/masks"))
    parser.add_argument("--concept", default="fish")
    parser.add_argument("--scores", default=",".join(SCORES))
    parser.add_argument("--keeps", default="0.05,0.1,0.2,0.5", help="shares of the weights")
    parser.add_argument("--steps", type=int, help="else the preset's")
    parser.add_argument("--forget-images", type=int, help="else the preset's")
    parser.add_argument("--retain-images", type=int, help="else the preset's")
    parser.add_argument("--subset", type=int, default=60, help="images to judge")
    parser.add_argument("--prompts", type=int, default=8, help="cases of completion")
    parser.add_argument("--at-most", type=int, default=10**9, help="cells in this call")
    markdown_file.add_option(parser)
    options = parser.parse_args()
    kept_figures.refuse_others(
        parser, options, ("steps", "forget_images", "retain_images", "subset", "prompts")
    )
    options.scores = options.scores.split(",")
    options.keeps = [float(keep) for keep in options.keeps.split(",")]
    left = [
        (s, k) for k in options.keeps for s in options.scores
        if not is_done(folder_of(s, k, options))
    ]  # fmt: skip
    for cell in left[: options.at_most]:
        measure(*cell, options)
    table = "\n".join(rows(options))
    print(table)
    markdown_file.write(options.markdown, table)
