"""Which training images, or classes, of a classifier are the hardest to forget, and by how much.

    python scripts/worst_case_images.py --model FOLDER --data hf:uoft-cs/cifar10 --share 0.1
    python scripts/worst_case_images.py --model pocket-vit --count 3 --sets 20 --retrained 0

Searches with `erasure.selection.Selector`: in each round the network goes on, by a few sign steps,
with what is not asked to be forgotten (cross-entropy weighed by 1 - w), and l_i is its loss on
image i then; with --count, on the held-out images of class i. OUT/chosen.txt names what was chosen,
one a line, for `erasure forget --samples` or, with commas, `--class`.

Beside it as many of the network's surest, which need no search, and random sets. Each set is
forgotten by every method (by retrain at most --retrained random ones) and judged under the protocol
random-forgetting: the lower UA, the more is still answered rightly. What is measured is kept, so it
can be stopped and started again. Prints the table in Markdown, in percent.

Fan, Liu, Hero, Liu (ECCV 2024), https://arxiv.org/abs/2403.07362.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import kept_figures
import markdown_file
import numpy as np
import torch
from refusals import in_a_line
from torch import Tensor
from torch.nn import functional as F

from erasure import forget
from erasure.config import typed
from erasure.errors import SettingError
from erasure.files.storage import write_json
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.load import load_classifier
from erasure.registry import METHODS
from erasure.requested import Data, load_parts
from erasure.selection import Selector, check_count, sign_steps
from erasure_datasets.labelled import Labelled
from evaluation import evaluate

ASKED = ("retrain", "fine-tune", "random-label", "salun")
DECIDING = (
    "model", "data", "images", "test_images", "share", "count", "rounds", "rate", "steps",
    "step_size", "batch_size", "seed", "settings",
)  # fmt: skip


class Things:
    """What may be chosen: every training image, or every class."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.model = asked, load_classifier(asked.model)
        self.data = Data(asked.data, asked.images, asked.test_images)
        self.train, self.test = load_parts(self.model, self.data)
        self.are_classes = bool(asked.count)
        labels = [self.model.title(number) for number in range(len(self.model.labels))]
        self.names = labels if self.are_classes else [*self.train.ids]
        self.count = asked.count or round(asked.share * len(self.names))
        check_count(self.count, len(self.names))

    def losses(self) -> Tensor:
        """Of each, now: the cross-entropy, in eval mode."""
        if not self.are_classes:
            return cross_entropies(self.model, self.train)
        found = cross_entropies(self.model, self.test)
        return torch.stack([found[self.test.labels == n].mean() for n in range(len(self.names))])

    def per_image(self, w: Tensor) -> Tensor:
        """The weight of every training image."""
        return w[self.train.labels] if self.are_classes else w

    def request(self, names: list[str]) -> dict[str, Any]:
        """A set, as `erasure.forget` is asked for it."""
        return {"tasks": [names]} if self.are_classes else {"samples": names}


@torch.no_grad()
def cross_entropies(model: Classifier, part: Labelled) -> Tensor:
    """(n,): of each image; a probability that rounds to 0 counts as the least one above it."""
    said = model.predict(part.images)[torch.arange(len(part)), part.labels]
    return -said.clamp(min=torch.finfo(said.dtype).tiny).log()


def search(things: Things) -> list[int]:
    """The places of what stays known best when it is what is left out."""
    asked, model, train = things.asked, things.model, things.train
    generator = torch.Generator().manual_seed(asked.seed)

    def losses(w: Tensor) -> Tensor:
        kept = 1 - things.per_image(w)

        def loss() -> Tensor:
            places = torch.multinomial(kept, asked.batch_size, generator=generator)
            logits = model.forward(model.prepare(train.images[places]))[1]
            return F.cross_entropy(logits, train.labels[places])

        with sign_steps(model.parameters(), loss, steps=asked.steps, size=asked.step_size):
            return things.losses()

    found = Selector(rounds=asked.rounds, rate=asked.rate).select(
        losses, len(things.names), things.count
    )
    write_json(asked.out / "selection.json", {
        "chosen": found.chosen, "weights": found.weights[-1].tolist(),
        "losses": found.losses.mean(1).tolist(),
    })  # fmt: skip
    return found.chosen


def sets(things: Things) -> dict[str, list[str]]:
    """The chosen set, the surest and random ones, by their names."""
    asked, file = things.asked, things.asked.out / "selection.json"
    chosen = json.loads(file.read_text())["chosen"] if file.is_file() else search(things)
    surest = things.losses().argsort(stable=True)[: things.count].tolist()
    rng, found = np.random.default_rng(asked.seed), {"chosen": chosen, "surest": surest}
    for number in range(asked.sets):
        drawn = rng.choice(len(things.names), things.count, replace=False)
        found[f"random-{number}"] = sorted(map(int, drawn))
    return {word: [things.names[place] for place in places] for word, places in found.items()}


def forgotten(method: str, word: str, names: list[str], things: Things) -> float:
    """UA after a method was asked to forget a set."""
    asked = things.asked
    run = asked.out / method / word
    if not (run / "edit.json").is_file():
        text = "" if method == "retrain" else asked.settings
        forget(
            asked.model, method, **things.request(names), out=run, data=things.data,
            seed=asked.seed, watch_every=0,
            **typed(METHODS.get("classifier", method), text, "settings"),
        )  # fmt: skip
    file = run / "scores" / "random-forgetting.json"
    if not file.is_file():
        evaluate(run, protocol="random-forgetting")
    ua: float = json.loads(file.read_text())["scores"]["UA"]["value"]
    return ua


def table(found: dict[str, dict[str, float]]) -> str:
    """A line per method: UA of the chosen, of the surest, and of the random sets."""
    heads = ("method", "chosen", "surest", "random, median", "lowest tenth", "random sets above")
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for method, by_set in found.items():
        chosen, surest = by_set["chosen"], by_set["surest"]
        drawn = np.array([ua for word, ua in by_set.items() if word.startswith("random")])
        cells = [f"{100 * chosen:.1f}", f"{100 * surest:.1f}"]
        cells += [f"{100 * value:.1f}" for value in np.quantile(drawn, (0.5, 0.1))]
        cells.append(f"{int((drawn > chosen).sum())} of {len(drawn)}")
        lines.append(f"| {' | '.join([method, *cells])} |")
    return "\n".join(lines)


def measured(asked: argparse.Namespace) -> dict[str, dict[str, float]]:
    """UA by method and set."""
    things, found = Things(asked), dict[str, dict[str, float]]()
    asked.out.mkdir(parents=True, exist_ok=True)
    drawn = sets(things)
    (asked.out / "chosen.txt").write_text("".join(f"{name}\n" for name in drawn["chosen"]))
    for method in asked.methods:
        most = min(asked.retrained, asked.sets) if method == "retrain" else asked.sets
        if most:
            words = ["chosen", "surest", *(f"random-{number}" for number in range(most))]
            found[method] = {w: forgotten(method, w, drawn[w], things) for w in words}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="pocket-vit")
    parser.add_argument("--data", default="auto")
    parser.add_argument("--images", type=int, default=64, help="training images of a class; 0: all")
    parser.add_argument("--test-images", type=int, default=32, help="of a class; 0: all")
    parser.add_argument("--out", type=Path, default=Path("runs/worst-images"))
    parser.add_argument("--share", type=float, default=0.1, help="of the training images")
    parser.add_argument("--count", type=int, default=0, help="choose so many classes instead")
    parser.add_argument("--sets", type=int, default=20, help="random sets beside the chosen one")
    parser.add_argument(
        "--retrained", type=int, default=5, help="at most so many of these by retrain"
    )
    parser.add_argument("--methods", default=",".join(ASKED))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--rate", type=float, default=0.2, help="of the weights")
    parser.add_argument("--steps", type=int, default=40, help="sign steps in a round")
    parser.add_argument("--step-size", type=float, default=3e-4)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--settings", default="", help='of every method but retrain, as "epochs=5,batch_size=64"'
    )
    markdown_file.add_option(parser)
    asked = parser.parse_args()
    asked.methods = asked.methods.split(",")
    with in_a_line():
        if asked.sets < 1:
            raise SettingError(f"sets must be at least 1; got {asked.sets}.")
        kept_figures.refuse_others(parser, asked, DECIDING)
        text = table(measured(asked))
    print(text)
    markdown_file.write(asked.markdown, text)


if __name__ == "__main__":
    main()
