"""What a run's log says of the classes on the way through its requests: the worst moments."""

import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor

from erasure.files.records import checked_record
from erasure.files.storage import read_lines
from evaluation.metrics.stability import least_accuracy, windowed_forgetting, worst_case
from evaluation.score import Score, wilson

REQUEST = re.compile(r"request (\d+)")
NAMES: tuple[str, ...] = ("min_Acc", "WC", "WF10", "max_Acc_o")
Looks = Sequence[Mapping[str, Any]]


class ProbeShape(TypedDict):
    """What the log's line of step 0 tells of the probe: steps between looks, images per class."""

    every: int
    images: list[int]
    is_apart: bool
    forgotten: list[int]
    earlier: list[int]


class LookShape(TypedDict):
    """A line of the log that a look at the probe wrote."""

    stage: str
    step: int
    Acc_r: float
    Acc_f: NotRequired[float]
    Acc_o: NotRequired[float]
    Acc: NotRequired[list[float | None]]
    probe: NotRequired[ProbeShape]


def looks(run: Path) -> list[dict[str, Any]]:
    """What was seen on the probe while the requests were learned, with the request's number.

    Other stages than a request's own ("request 0 groups") are no part of it. RunError for a line
    that no run writes.
    """
    points = []
    for entry in read_lines(run / "log.jsonl"):
        stage = REQUEST.fullmatch(str(entry.get("stage")))
        if stage and "Acc_r" in entry:
            line = checked_record(entry, LookShape, f"{run / 'log.jsonl'}'s line")
            points.append({**line, "request": int(stage[1])})
    return points


def worst_moments(
    seen: Looks, tasks: Sequence[Sequence[int]], classes: int
) -> tuple[list[dict[str, Score]], dict[int, float], dict[str, str]]:
    """(each request's scores, kept classes' least accuracies in the last, why what is left out is).

    `tasks` are the requests' class indices, one empty task where single images were forgotten.
    Scores of a request are `NAMES`, as far as they can be told: of the classes kept so far at each
    one's worst look, of the share forgotten beside them, of the deepest fall in ten looks, and of
    what earlier requests forgot at its best.
    """
    found: list[dict[str, Score]] = []
    why, least = dict[str, str](), dict[int, float]()
    for number, task in enumerate(tasks):
        own = [look for look in seen if look["request"] == number]
        earlier = [label for other in tasks[:number] for label in other]
        reason = _unusable(own, task, earlier, classes)
        if reason:
            found.append({})
            why, least = dict.fromkeys(NAMES, reason), {}
            continue
        kept, accuracies = _accuracies(own, {*task, *earlier})
        found.append(_scores(own, accuracies, is_of_classes=bool(task), earlier=earlier))
        why = _missing(found[-1], is_of_classes=bool(task), earlier=earlier)
        least = dict(zip(kept, accuracies.amin(0).tolist(), strict=True))
    return found, least, why


def _unusable(own: Looks, task: Sequence[int], earlier: Sequence[int], classes: int) -> str:
    """Why nothing can be told of a request by these looks; "" if it can."""
    if not own:
        return "nothing was looked at on the way (--watch-every 0, or the log is gone)"
    if "probe" not in own[0] or any("Acc" not in look for look in own):
        return "the log has no accuracies of each class: an older version wrote it"
    probe, counts = own[0]["probe"], {len(look["Acc"]) for look in own}
    if (probe["forgotten"], probe["earlier"]) != ([*task], [*earlier]) or counts != {classes}:
        return "the log is of other requests than the run's record"
    return ""


def _accuracies(own: Looks, gone: Container[int]) -> tuple[list[int], Tensor]:
    """(the kept classes that the probe has images of, their accuracies (looks, classes))."""
    first = own[0]["Acc"]
    known = [c for c, value in enumerate(first) if value is not None and c not in gone]
    rows = [[float(look["Acc"][c]) for c in known] for look in own]
    return known, torch.tensor(rows, dtype=torch.float64)


def _scores(
    own: Looks, accuracies: Tensor, *, is_of_classes: bool, earlier: Sequence[int]
) -> dict[str, Score]:
    scores: dict[str, Score] = {}
    if accuracies.shape[1]:
        scores["min_Acc"] = least_accuracy(accuracies)
        if is_of_classes and "Acc_f" in own[-1]:
            scores["WC"] = worst_case(accuracies, 1 - own[-1]["Acc_f"])
        scores["WF10"] = windowed_forgetting(accuracies)
    if all("Acc_o" in look for look in own):
        most = max(look["Acc_o"] for look in own)
        count = sum(own[0]["probe"]["images"][label] for label in earlier)
        error = (most * (1 - most) / count) ** 0.5
        low, high = wilson(most, count)
        scores["max_Acc_o"] = Score(most, error, count, False, low, high)
    return scores


def _missing(
    scores: Mapping[str, Score], *, is_of_classes: bool, earlier: Sequence[int]
) -> dict[str, str]:
    """Why each score that is missing is."""
    none = "the probe has no image of a {} class"
    single = "single images were forgotten, and their classes are kept"
    reasons = {
        "min_Acc": none.format("kept"),
        "WC": none.format("kept or a forgotten") if is_of_classes else single,
        "WF10": none.format("kept"),
        "max_Acc_o": none.format("formerly forgotten") if earlier else "no request came before",
    }
    return {name: reasons[name] for name in NAMES if name not in scores}


def told_probe(seen: Looks) -> dict[str, Any] | None:
    """How the last request was looked at, for the record; None where the log does not say."""
    told = [look["probe"] for look in seen if "probe" in look]
    if not told:
        return None
    last = told[-1]
    whose = "none of them a test image" if last["is_apart"] else "the first of the test images"
    count = max(last["images"])
    return {
        "every": last["every"],
        "images": sum(last["images"]),
        "note": f"on a probe of at most {count} held-out images per class, {whose}, every "
        f"{last['every']} steps",
    }
