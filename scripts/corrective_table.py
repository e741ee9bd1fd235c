"""Corrective unlearning of a classifier: how far each method mends what wrong data did.

    python scripts/corrective_table.py --data hf:uoft-cs/cifar10 --out runs/patched
    python scripts/corrective_table.py --data DATA --out runs/confused --manipulation confusion \\
        --small --known 0.1,1

Writes images of which some are manipulated (poisoned_images.py), trains a network on them with
`erasure train`, and lets each method forget the `known` shares of the manipulated ones; all are
judged under the protocol corrective, on test images that show the manipulation (Acc_corr) and on
the rest (Acc_ret):

    restored  (Acc_corr - poisoned's) / (clean's - poisoned's), clean being the network retrained
              without any manipulated image; its 95 % interval is over the test images alone

One poisoned network, one seed. What is finished is kept, so it can be stopped and started again;
`--at-most` does so many cells of what is left. `--small` is for two cores: 200 images a class at
16 pixels, 20 epochs.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import kept_figures
import markdown_file
from poisoned_images import Poison, add_options, known_list, known_shares, poisoned
from refusals import erasure, in_a_line
from sample_table import BASE, SMALL

from erasure.errors import ModelError

METHODS = {
    "retrain": [],
    "fine-tune": ["--l1", "0", "--epochs-without", "0"],
    "gradient-ascent": [],
    "random-label": [],
    "salun": [],
    "scrub": [],
    "npo": [],
    "ssd": ["--selection", "10"],
}
FEW = {"images": 200, "test_images": 100}
SMALL = SMALL | {"base": [*SMALL["base"], "--epochs", "20"]}  # the last one holds
LEFT = 0.8  # of the clean network's Acc_corr, which the poisoned one may have at most
EVERY_IMAGE = ["--images", "0", "--test-images", "0"]  # of the written folder


def trained(asked: argparse.Namespace) -> Path:
    """The poisoned network's folder."""
    base = asked.out / "poisoned"
    if not (base / "config.json").is_file():
        erasure("train", asked.architecture, "--data", asked.out / "data", "--out", base,
                "--seed", asked.seed, *(SMALL["base"] if asked.small else BASE))  # fmt: skip
    return base


def mended(method: str, known: str, asked: argparse.Namespace) -> Path:
    """The run of a method that forgets the known share."""
    run = asked.out / f"known-{known}" / method
    if not (run / "edit.json").is_file():
        small = SMALL.get(method, []) if asked.small else []
        erasure(
            "forget", method, "--model", trained(asked), "--data", asked.out / "data",
            "--samples", known_list(asked.out / "data", known, asked.out), "--seed", asked.seed,
            "--watch-every", 0, "--out", run, *EVERY_IMAGE, *METHODS[method], *small,
        )  # fmt: skip
    return run


def judged(method: str, known: str, asked: argparse.Namespace) -> dict[str, Any]:
    """The record of a run, made if it is not there. ModelError if the poison did not take."""
    clean, run = mended("retrain", "1", asked), mended(method, known, asked)
    file = run / "scores" / "corrective.json"
    if not file.is_file():
        erasure("evaluate", run, "--protocol", "corrective", "--reference", clean,
                "--affected", asked.out / "data" / "affected.csv")  # fmt: skip
    record = json.loads(file.read_text())
    own, best = (record[key]["Acc_corr"]["value"] for key in ("baseline", "retrained"))
    if own > LEFT * best:
        raise ModelError(
            f"the poison did not take: the poisoned network is right on {100 * own:.0f} % of the "
            f"affected images, where the clean one is on {100 * best:.0f} %; raise --share."
        )
    return record


def line(name: str, known: str, record: dict[str, Any], key: str = "scores") -> str:
    """A row; accuracies in percent, restored with half of its 95 % interval."""
    found = record[key]
    cells = [name, known, *(f"{100 * found[n]['value']:.1f}" for n in ("Acc_corr", "Acc_ret"))]
    if key != "scores":
        return f"| {' | '.join(cells)} | - | - |"
    restored = found["restored"]
    half = restored["high"] - restored["value"]
    cells += [f"{restored['value']:+.2f} ± {half:.2f}", f"{record['seconds']:.0f}"]
    return f"| {' | '.join(cells)} |"


def table(records: dict[tuple[str, str], dict[str, Any]]) -> str:
    heads = ("method", "known", "Acc_corr", "Acc_ret", "restored", "s")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    if records:
        first = next(iter(records.values()))
        lines += [line("poisoned", "-", first, "baseline"), line("clean", "-", first, "retrained")]
    return "\n".join(
        lines + [line(method, known, record) for (method, known), record in records.items()]
    )


def measured(asked: argparse.Namespace) -> dict[tuple[str, str], dict[str, Any]]:
    """Every cell's record by method and known share; at most so many new ones."""
    shares = known_shares(asked.known)
    words = ("data", "manipulation", "share", "pair", "patch", "seed")
    told: dict[str, Any] = {name: getattr(asked, name) for name in words}
    told |= FEW if asked.small else {}
    poisoned(asked.out / "data", Poison(**told))
    found, left = dict[tuple[str, str], dict[str, Any]](), asked.at_most
    for method in asked.methods.split(","):
        for known in shares:
            file = asked.out / f"known-{known}" / method / "scores" / "corrective.json"
            left -= not file.is_file()
            if left >= 0 or file.is_file():
                found[method, known] = judged(method, known, asked)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--small", action="store_true", help="for two cores")
    parser.add_argument("--at-most", type=int, default=10**9, help="cells in this call")
    markdown_file.add_option(parser)
    asked = parser.parse_args()
    strange = [name for name in asked.methods.split(",") if name not in METHODS]
    if strange:
        parser.error(f"methods must be of {', '.join(METHODS)}; got {strange[0]!r}")
    kept_figures.refuse_others(parser, asked, ("architecture", "small"))
    with in_a_line():
        text = table(measured(asked))
    print(text)
    markdown_file.write(asked.markdown, text)


if __name__ == "__main__":
    main()
