"""The protocol `class-forgetting`: what a classifier still knows, on held-out images.

Acc_f on the forgotten classes, Acc_r on the kept ones, Acc_o on those of earlier requests; H, the
harmonic mean of the drop in Acc_f and Acc_r; MIA, the share of the forgotten training images that a
confidence attack takes for never seen. Of single images: Acc_f on those, Acc_r on the other
training images at hand, Acc_t on the test images, Acc_corr on single images by their true labels
where the request has them, and MIA. Zhao et al. (CVPR 2024) and Fan et al. (ICLR
2024).

With --reference, a retrained model's run: `distance`, the total variation of both models' answers;
and of one that forgot the very same, `probe`, how well the features of the network's most telling
block tell forgotten from kept classes (`probes` has every block's, also of the un-erased, the
retrained and a random network; `retrained` the retrained model's own scores, which are the floor),
and `PrivLeak`, signed, 0 where training images of what is forgotten stand out among held-out ones
of the same classes as they do in the retrained model. See `against_retrained`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from erasure.errors import SettingError
from erasure.files.storage import write_json
from erasure.forgetting import Request
from erasure.models.classifier.classifier import Classifier
from erasure.registry import PROTOCOLS
from erasure_datasets.labelled import Labelled
from evaluation.against_retrained import ask, compare, questions_for
from evaluation.forgetting_run import (
    ForgettingRun,
    confidence,
    of_own_class,
    open_run,
    sample_request,
)
from evaluation.metrics.forgetting import accuracy, h_mean, membership
from evaluation.protocols import Asked, Option, Protocol
from evaluation.score import Score, plain
from evaluation.scored import of_others

NAME = "class-forgetting"


def evaluate(
    run: Path, *, name: str = NAME, classes: Sequence[str] | None = None,
    reference: Path | None = None, base: Path | str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score a run of `erasure forget`; returns the record that it writes to scores/NAME.json.

    `classes` scores these as the forgotten ones instead of the last request's, whose record stays:
    this one is called NAME-of_cat.json. `reference` is a retrained model's run, to which the
    distance is taken. Classes without test images are named in `without_images`, and a score
    without any is left out. SettingError for what does not fit.
    """
    found = open_run(run, reference=reference, base=base)
    record = scored(found, name=name, classes=classes, reference=reference)
    write_json(file_of(run, found, name, classes), record)
    return record


def file_of(
    run: Path, found: ForgettingRun, name: str, classes: Sequence[str] | None
) -> Path:  # fmt: skip
    """Where a record goes: scores/NAME.json, or beside it what is of other classes."""
    model = found.model
    asked = list(dict.fromkeys(model.asked(classes or ())))
    is_own = not asked or {*asked} == {*model.indices(found.config["tasks"][-1])}
    words = [name] if is_own else [name, of_others([model.title(c) for c in asked])]
    return run / "scores" / f"{'-'.join(words)}.json"


def scored(
    found: ForgettingRun, *, name: str, classes: Sequence[str] | None, reference: Path | None
) -> dict[str, Any]:
    """As `evaluate`, of an opened run, whose model is edited after that; nothing is written."""
    model, train, test = found.model, found.train, found.test
    if found.samples and classes:
        raise SettingError("concept must not be given: the run forgot single images, not classes.")
    asked = sample_request(found) if found.samples else None
    now, earlier, kept = (
        _parts(model, found.config["tasks"], classes) if asked is None else ([], [], [])
    )

    def figures(before: dict[str, Score] | None) -> dict[str, Score]:
        if asked is not None:
            return _of_samples(model, asked, test)
        return _scores(model, train, test, now, earlier, kept, before)

    questions = None
    if reference is not None:
        questions = questions_for(found, reference, now if classes else [*now, *earlier])
    before = figures(None)
    first = ask(model, questions) if questions else None
    found.edit.apply(model)
    scores = figures(before)
    second = ask(model, questions) if questions else None
    said = second.said if second else model.predict(test.images)
    left_out, beside = _left_out(model, scores, now, earlier, asked), dict[str, Any]()
    if questions and first and second and found.other:
        told = compare(first, second, found.other, questions)
        scores, before = scores | told.edited, before | told.original
        left_out |= told.left_out
        beside = {"retrained": plain(told.retrained), "probes": told.probes}
    touched = found.edit.shapes()
    sizes = {weight: p.numel() for weight, p in model.parameters().items()}
    seen = set(test.labels.tolist())
    return {
        "protocol": name,
        "scores": plain(scores),
        "per_concept": {
            model.title(c): plain(
                {"Acc": replace(accuracy(said, test.labels, [c]), higher_is_better=False)}
            )
            for c in [*earlier, *now]
            if c in seen
        },
        "baseline": plain(before),
        **beside,
        "left_out": left_out,
        "without_images": [model.title(c) for c in range(len(model.labels)) if c not in seen],
        "requests": found.requests,
        "weights_touched": sum(sizes.get(tensor, 0) for tensor in touched) / sum(sizes.values()),
        "seconds": found.config.get("seconds"),
        "stamp": stamp(name, dict(found.config["data"]), model, len(test), reference),
    }


def _left_out(
    model: Classifier, scores: Mapping[str, Score], now: list[int], earlier: list[int],
    samples: Request | None,
) -> dict[str, str]:  # fmt: skip
    """Why each score that is missing is; `samples` is a request of single images."""
    titles = {"Acc_f": now, **({"Acc_o": earlier} if earlier else {})}
    wanted = {
        name: f"no test image of {', '.join(map(model.title, classes))}"
        for name, classes in titles.items()
    }
    wanted |= {
        "Acc_r": "no test image of a kept class",
        "H": "it needs Acc_f and Acc_r",
        "MIA": "it needs training images of both kinds and test images of kept classes",
    }
    if samples is not None:
        none = "no other training image is at hand"
        wanted = {"Acc_r": none, "MIA": none}
    return {name: why for name, why in wanted.items() if name not in scores}


def _parts(
    model: Classifier, tasks: list[list[str]], classes: Sequence[str] | None
) -> tuple[list[int], list[int], list[int]]:
    """(the classes that are scored as forgotten, those of earlier requests, those kept)."""
    requests = [model.indices(task) for task in tasks]
    now = list(dict.fromkeys(model.asked(classes))) if classes else requests[-1]
    earlier = [c for task in requests for c in task if c not in now]
    kept = [c for c in range(len(model.labels)) if c not in {*now, *earlier}]
    if not now:
        raise SettingError("concept must name at least one class.")
    return now, earlier, kept


def stamp(
    name: str, data: dict[str, Any], model: Classifier, images: int, reference: Path | None
) -> dict[str, object]:
    return {
        "protocol": name,
        "data": data,
        "classes": len(model.labels),
        "images": images,
        "resolution": model.transform.size,
        "reference": str(reference) if reference else None,
        "versions": {part: version(part) for part in ("torch", "timm", "erasure-toolkit")},
    }


def _scores(
    model: Classifier, train: Labelled, test: Labelled, now: list[int], earlier: list[int],
    kept: list[int], before: dict[str, Score] | None,
) -> dict[str, Score]:  # fmt: skip
    """Every figure of one model; H needs the scores from before the edit."""
    said, seen = model.predict(test.images), set(test.labels.tolist())
    scores = {
        name: replace(accuracy(said, test.labels, classes), higher_is_better=name == "Acc_r")
        for name, classes in (("Acc_f", now), ("Acc_r", kept), ("Acc_o", earlier))
        if seen & set(classes)
    }
    if before is not None and {"Acc_f", "Acc_r"} <= scores.keys():
        drop = max(before["Acc_f"].value - scores["Acc_f"].value, 0.0)
        value = h_mean(drop, scores["Acc_r"].value)
        scores["H"] = Score(value, 0.0, scores["Acc_f"].n + scores["Acc_r"].n)
    members, others, asked = train.of(kept), test.of(kept), train.of(now)
    if len(members) and len(others) and len(asked):
        scores["MIA"] = membership(*(confidence(model, p) for p in (members, others, asked)))
    return scores


def _of_samples(model: Classifier, request: Request, test: Labelled) -> dict[str, Score]:
    """Every figure of one model that was to forget single training images."""
    every, scores, sure = list(range(len(model.labels))), dict[str, Score](), dict[str, Tensor]()
    for name, part in request.measured(test).items():
        if not len(part):
            continue
        said = model.predict(part.images)
        score = accuracy(said, part.labels, every)
        scores[name] = replace(score, higher_is_better=name != "Acc_f")
        sure[name] = of_own_class(said, part)
    if "Acc_r" in sure:
        scores["MIA"] = membership(sure["Acc_r"], sure["Acc_t"], sure["Acc_f"])
    return scores


@PROTOCOLS.register
class ClassForgetting(Protocol):
    """What a classifier still knows of the classes that it was to forget."""

    judges: ClassVar[Literal["drawings", "classes"]] = "classes"
    takes: ClassVar[frozenset[Option]] = frozenset({"reference"})

    def evaluate(self, asked: Asked) -> dict[str, Any]:
        return evaluate(
            asked.folder, classes=asked.concepts, reference=asked.reference, base=asked.base
        )
