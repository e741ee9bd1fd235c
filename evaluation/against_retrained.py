"""What is compared between a model that forgot and one that was retrained without it.

Linear probes, block by block: whether the features that a network computes on held-out images tell
the forgotten classes from the kept ones. A method that changes the answer alone leaves them as the
un-erased model's; the retrained model's are the floor, and a network with random weights shows what
the architecture gives for nothing. Each image is judged by a regression that did not see it, and
the images are the test's, which no network was trained on.

PrivLeak: whether training images of what is forgotten are still told from held-out images of the
same classes (of single images: from test images) as well as in the retrained model, signed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.load import random_weights
from erasure.models.classifier.stages import stage_features
from erasure_datasets.labelled import Labelled
from evaluation.forgetting_run import ForgettingRun, confidence, forgot_the_same, whole_request
from evaluation.metrics.forgetting import distance
from evaluation.metrics.linear_probe import crossed_probe
from evaluation.metrics.membership import privacy_leak
from evaluation.score import Score

MOST = 512  # images of either side that a probe learns from and is judged on
LEAST = 2


@dataclass(frozen=True)
class Questions:
    """What every model is asked.

    Probes tell `gone` from `kept`, test images both. PrivLeak tells `members`, training images of
    what is forgotten, from `others`. `why` says of each that cannot be taken why.
    """

    test: Labelled
    gone: Labelled
    kept: Labelled
    members: Labelled
    others: Labelled
    why: dict[str, str]


@dataclass(frozen=True)
class Answers:
    """A model's answers to the test, its probes by stage, and how sure it is of either part."""

    said: Float[Tensor, "n classes"]
    probes: dict[str, Score]
    members: Float[Tensor, " m"]
    others: Float[Tensor, " o"]


@dataclass(frozen=True)
class Comparison:
    """Each model's scores, the probes of all four by stage, and why what is missing is."""

    edited: dict[str, Score]
    original: dict[str, Score]
    retrained: dict[str, Score]
    probes: dict[str, dict[str, float]]
    left_out: dict[str, str]


def questions_for(found: ForgettingRun, reference: Path, classes: Sequence[int]) -> Questions:
    """What is asked where these classes count as forgotten; of none, single images were."""
    request, test = whole_request(found), found.test
    others = [number for number in request.kept if number not in classes] if classes else []
    gone, kept = (test.of(part) for part in (classes, others))
    members = found.train.of(classes) if classes else request.forget
    unseen = gone if classes else test
    why = dict[str, str]()
    if not classes:
        why["probe"] = "single images were forgotten, and their classes are kept"
    elif min(len(gone), len(kept)) < LEAST:
        why["probe"] = f"it needs {LEAST} test images each of forgotten and of kept classes"
    if not (len(members) and len(unseen)):
        why["PrivLeak"] = "it needs training and test images of what is forgotten"
    if not forgot_the_same(reference, found):
        other = f"the reference {reference} forgot something else, and is no floor"
        why |= {"probe": other, "PrivLeak": other}
    return Questions(test, gone, kept, members, unseen, why)


def ask(model: Classifier, questions: Questions) -> Answers:
    """What one model answers, as it is now."""
    leaks = "PrivLeak" not in questions.why
    nothing = torch.empty(0)
    return Answers(
        model.predict(questions.test.images),
        {} if "probe" in questions.why else _probes(model, questions),
        confidence(model, questions.members) if leaks else nothing,
        confidence(model, questions.others) if leaks else nothing,
    )


def compare(
    original: Answers, edited: Answers, other: Classifier, questions: Questions
) -> Comparison:
    """How both models' answers lie to those of the retrained one, whose weights end random."""
    gold, why = ask(other, questions), dict(questions.why)

    def scores(own: Answers) -> dict[str, Score]:
        found = {"distance": distance(own.said, gold.said)} if own is not gold else {}
        if own.probes:
            found["probe"] = max(own.probes.values(), key=lambda score: score.value)
        if "PrivLeak" not in why:
            leak = privacy_leak(own.members, own.others, gold.members, gold.others)
            found |= {"PrivLeak": leak} if leak is not None else {}
        return found

    told = scores(edited), scores(original), scores(gold)
    if "PrivLeak" not in {*told[0], *why}:
        why["PrivLeak"] = "the retrained model is surer of all such training images than of others"
    every = {"original": original.probes, "edited": edited.probes, "retrained": gold.probes}
    if gold.probes:
        random_weights(other, torch.Generator().manual_seed(0))
        every["random"] = _probes(other, questions)
    probes = {
        who: {stage: round(score.value, 4) for stage, score in own.items()}
        for who, own in every.items()
        if own
    }
    return Comparison(*told, probes, why)


def _probes(model: Classifier, questions: Questions) -> dict[str, Score]:
    """Balanced accuracy by stage; none of features that overflow, as random weights' may."""
    sides = [_spread(side) for side in (questions.gone, questions.kept)]
    images = sides[0].and_then(sides[1]).images
    is_gone = torch.tensor([1] * len(sides[0]) + [0] * len(sides[1]))
    return {
        name: crossed_probe(features, is_gone)
        for name, features in stage_features(model, images).items()
        if features.isfinite().all()
    }


def _spread(part: Labelled) -> Labelled:
    """At most `MOST` images, evenly spaced."""
    if len(part) <= MOST:
        return part
    return part.at(torch.linspace(0, len(part) - 1, MOST).round().long().tolist())
