"""The protocol `class-forgetting`: what a vision transformer still knows, on held-out images.

Acc_f on the forgotten classes, Acc_r on the kept ones, Acc_o on those of earlier requests; H, the
harmonic mean of the drop in Acc_f and Acc_r; MIA, the share of the forgotten training images that a
confidence attack takes for never seen. Zhao et al. (CVPR 2024) and Fan et al. (ICLR 2024).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.forgetting import Data, load_parts
from erasure.models.load_vit import load_vit
from erasure.models.vit import ViTModel
from erasure.storage import write_json
from erasure_datasets.classes import Labelled
from evaluation.metrics.forgetting import accuracy, distance, h_mean, membership
from evaluation.protocols import Protocol
from evaluation.score import Score

NAME = "class-forgetting"


def evaluate(
    run: Path, *, name: str = NAME, classes: Sequence[str] | None = None,
    reference: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Score a run of `erasure forget`; returns the record that it writes to scores/NAME.json.

    `classes` scores these as the forgotten ones instead of the last request's; `reference` is a
    retrained model's run, to which the distance is taken. SettingError for what does not fit.
    """
    edit = Edit.load(run)
    config = json.loads((run / "config.json").read_text())
    data = Data(**{**config["data"], "missing": tuple(config["data"]["missing"])})
    model = load_vit(edit.base)
    train, test = load_parts(model, data)
    tasks = [model.indices(task) for task in config["tasks"]]
    now = model.indices(classes) if classes else tasks[-1]
    earlier = [c for task in tasks for c in task if c not in now]
    kept = [c for c in range(len(model.labels)) if c not in {*now, *earlier}]
    before = _scores(model, train, test, now, earlier, kept, None)
    known = model.predict(test.images)
    edit.apply(model)
    scores = _scores(model, train, test, now, earlier, kept, before)
    said = model.predict(test.images)
    if reference is not None:
        other = Edit.load(reference)
        if other.base != edit.base:
            raise SettingError(f"reference must be of {edit.base}; {reference} is of {other.base}.")
        retrained = load_vit(other.base)
        other.apply(retrained)
        gone = retrained.predict(test.images)
        scores["distance"], before["distance"] = distance(said, gone), distance(known, gone)
    touched = edit.shapes()
    sizes = {weight: p.numel() for weight, p in model.parameters().items()}
    record: dict[str, Any] = {
        "protocol": name,
        "scores": {key: asdict(value) for key, value in scores.items()},
        "per_concept": {
            model.labels[c]: {"Acc": asdict(accuracy(said, test.labels, [c]))}
            for c in [*earlier, *now]
        },
        "baseline": {key: asdict(value) for key, value in before.items()},
        "requests": json.loads((run / "requests.json").read_text()),
        "weights_touched": sum(sizes[weight] for weight in touched) / sum(sizes.values()),
        "seconds": config.get("seconds"),
        "stamp": stamp(name, config["data"], model, len(test), reference),
    }
    write_json(run / "scores" / f"{name}.json", record)
    return record


def stamp(
    name: str, data: dict[str, Any], model: ViTModel, images: int, reference: Path | None
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
    model: ViTModel, train: Labelled, test: Labelled, now: list[int], earlier: list[int],
    kept: list[int], before: dict[str, Score] | None,
) -> dict[str, Score]:  # fmt: skip
    """Every figure of one model; H needs the scores from before the edit."""
    said = model.predict(test.images)
    scores = {
        "Acc_f": replace(accuracy(said, test.labels, now), higher_is_better=False),
        "Acc_r": accuracy(said, test.labels, kept),
    }
    if earlier:
        scores["Acc_o"] = replace(accuracy(said, test.labels, earlier), higher_is_better=False)
    if before is not None:
        drop = max(before["Acc_f"].value - scores["Acc_f"].value, 0.0)
        value = h_mean(drop, scores["Acc_r"].value)
        scores["H"] = Score(value, 0.0, scores["Acc_f"].n + scores["Acc_r"].n)
    members, others, asked = train.of(kept), test.of(kept), train.of(now)
    if len(members) and len(asked):
        scores["MIA"] = membership(*(confidence(model, p) for p in (members, others, asked)))
    return scores


def confidence(model: ViTModel, part: Labelled) -> Tensor:
    """The probability of each image's true class."""
    return model.predict(part.images)[torch.arange(len(part)), part.labels]


PROTOCOL = Protocol(
    NAME,
    "classes",
    lambda asked: evaluate(asked.folder, classes=asked.concepts, reference=asked.reference),
    frozenset({"reference"}),
)
