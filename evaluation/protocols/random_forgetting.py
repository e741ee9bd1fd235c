"""The protocol `random-forgetting`: the table of single samples, against a retrained model.

UA, the share of the forgotten training images that are named wrongly; RA and TA, the accuracy on
the other training images at hand and on the test images; MIA, the share of the forgotten that the
papers' attack takes for never trained on. Of classes, the forgotten images are all of theirs, and
the test images those of the kept ones. With --reference, a retrained model's run that forgot the
same, a rate is the better the nearer it is to that model's, and there are three more: `gap`, the
mean of the four differences to it in size; `leak`, signed, 0 where the forgotten are told from test
images as well as in the retrained model; `distance`, the total variation of the two models'
probabilities on test images.

Jia et al. (NeurIPS 2023) and Fan et al. (ICLR 2024). `--subset N` is the quick form: at most N
images of each part.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from erasure.errors import SettingError
from erasure.files.storage import write_json
from erasure.forgetting import Request
from erasure.models.classifier.classifier import Classifier
from erasure.registry import PROTOCOLS
from erasure_datasets.labelled import Labelled
from evaluation.forgetting_run import forgot_the_same, of_own_class, open_run, whole_request
from evaluation.metrics.forgetting import distance
from evaluation.metrics.membership import privacy_leak, support_vectors
from evaluation.protocols import Asked, Option, Protocol
from evaluation.protocols.class_forgetting import stamp
from evaluation.score import Score, estimate, plain, rate

NAME = "random-forgetting"
RATES = ("UA", "RA", "TA", "MIA")
SURE = "the retrained model is surer of every forgotten image than of any test image"
LEAST = 20  # images of each part, below which --subset says nothing

Said = dict[str, Tensor]  # what a model says of each part: probabilities (n, classes)


def evaluate(
    run: Path, *, reference: Path | None = None, base: Path | str | None = None,
    subset: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score a run; returns the record that it writes to scores/random-forgetting.json.

    SettingError for a reference that forgot something else, and for what does not fit.
    """
    most = _most(subset)
    found = open_run(run, reference=reference, base=base)
    if reference is not None and not forgot_the_same(reference, found):
        raise SettingError(
            f"reference must be retrained without what was forgotten; {reference} forgot "
            "something else. Give it the same classes, samples, or share and seed."
        )
    parts = _parts(whole_request(found), found.test, most)
    model = found.model
    before = _said(model, parts)
    found.edit.apply(model)
    said = _said(model, parts)
    scores, baseline, gold = _rates(said, parts), _rates(before, parts), dict[str, Score]()
    if found.other is not None:
        theirs = _said(found.other, parts)
        gold = _rates(theirs, parts)
        scores = _towards(gold, scores) | _beside(said, scores, theirs, gold, parts)
        baseline = _towards(gold, baseline) | _beside(before, baseline, theirs, gold, parts)
    name = NAME if most is None else f"{NAME}-{most}-subset"
    record = {
        "protocol": NAME if most is None else f"{NAME}-subset",
        "scores": plain(scores),
        "per_concept": {},
        "baseline": plain(baseline),
        "retrained": plain(gold),
        "left_out": {"leak": SURE} if gold and "leak" not in scores else {},
        "requests": found.requests,
        "seconds": found.config.get("seconds"),
        "stamp": stamp(name, dict(found.config["data"]), model, len(parts["test"]), reference),
    }
    write_json(run / "scores" / f"{name}.json", record)
    return record


def _most(subset: str | None) -> int | None:
    if subset is None:
        return None
    if not (subset.isascii() and subset.isdigit() and int(subset) >= LEAST):
        raise SettingError(f"subset must be a number of images from {LEAST} on; got {subset!r}.")
    return int(subset)


def _parts(request: Request, test: Labelled, most: int | None) -> dict[str, Labelled]:
    """The images of each figure, evenly spaced where only so many are wanted."""
    seen = test.of(request.kept) if request.classes else test
    parts = {"forget": request.forget, "retain": request.retain, "test": seen}
    for name, part in parts.items():
        if not len(part):
            raise SettingError(f"there are no {name} images, and so no figures of {NAME}.")
        if most is not None and len(part) > most:
            places = torch.linspace(0, len(part) - 1, most).round().long()
            parts[name] = part.at(places.tolist())
    return parts


def _said(model: Classifier, parts: dict[str, Labelled]) -> Said:
    return {name: model.predict(part.images) for name, part in parts.items()}


def _sure(said: Said, parts: dict[str, Labelled]) -> Said:
    """The probability of each image's own class."""
    return {name: of_own_class(s, parts[name]) for name, s in said.items()}


def _rates(said: Said, parts: dict[str, Labelled]) -> dict[str, Score]:
    right = {name: rate(s.argmax(1) == parts[name].labels) for name, s in said.items()}
    wrong = rate(said["forget"].argmax(1) != parts["forget"].labels)
    sure = _sure(said, parts)
    attack = support_vectors(sure["retain"], sure["test"], sure["forget"])
    return {"UA": wrong, "RA": right["retain"], "TA": right["test"], "MIA": attack}


def _towards(gold: dict[str, Score], scores: dict[str, Score]) -> dict[str, Score]:
    """The rates, each of which is the better the nearer it is to the retrained model's."""
    return {
        name: replace(score, higher_is_better=score.value <= gold[name].value)
        for name, score in scores.items()
    }


def _beside(
    said: Said, scores: dict[str, Score], theirs: Said, gold: dict[str, Score],
    parts: dict[str, Labelled],
) -> dict[str, Score]:  # fmt: skip
    """What needs the retrained model's answers."""
    own, other = _sure(said, parts), _sure(theirs, parts)
    found = {"gap": gap(scores, gold), "distance": distance(said["test"], theirs["test"])}
    leak = privacy_leak(own["forget"], own["test"], other["forget"], other["test"])
    return found | ({"leak": leak} if leak is not None else {})


def gap(scores: dict[str, Score], gold: dict[str, Score]) -> Score:
    """Mean size of the differences to a retrained model in UA, RA, TA and MIA, in [0, 1].

    Its error takes the eight rates for independent.
    """
    pairs = [(scores[name], gold[name]) for name in RATES]
    value = sum(abs(own.value - other.value) for own, other in pairs) / len(pairs)
    error = sum(own.stderr**2 + other.stderr**2 for own, other in pairs) ** 0.5 / len(pairs)
    count = sum(own.n for own, _ in pairs)
    return estimate(value, error, count, least=0.0, most=1.0, higher_is_better=False)


@PROTOCOLS.register
class RandomForgetting(Protocol):
    """The table of single samples: UA, RA, TA, MIA and the gap to a retrained model."""

    judges: ClassVar[Literal["drawings", "classes"]] = "classes"
    takes: ClassVar[frozenset[Option]] = frozenset({"reference", "subset"})

    def evaluate(self, asked: Asked) -> dict[str, Any]:
        if asked.concepts:
            raise SettingError(f"{NAME} judges all that the run forgot; leave --concept out.")
        return evaluate(
            asked.folder, reference=asked.reference, base=asked.base, subset=asked.subset
        )
