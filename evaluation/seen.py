"""What a protocol's judge said of every picture, out of the record of its scores."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from erasure.errors import RunError
from erasure.files.records import RequestShape, ScoreShape, ScoresShape
from erasure_datasets.unlearncanvas import OBJECTS, THEMES
from evaluation.protocols import pocket, unlearncanvas

REMEDY = "remove it and make it again"


class PointShape(TypedDict):
    """Accuracies on a probe, on the way through a request."""

    request: int | str
    step: int
    Acc_f: NotRequired[float]
    Acc_r: NotRequired[float]
    Acc_o: NotRequired[float]


class WorstShape(TypedDict):
    """The deepest dips on the way through a run's requests."""

    Acc_r: float | None
    classes: NotRequired[dict[str, float]]


class LookedShape(TypedDict):
    """How the classes were looked at on the way."""

    note: str


class JudgedShape(ScoresShape):
    """scores/PROTOCOL.json, as far as the report reads it."""

    retrained: NotRequired[dict[str, ScoreShape]]
    probes: NotRequired[dict[str, dict[str, float]]]
    worst: NotRequired[WorstShape]
    probe: NotRequired[LookedShape]
    labels: NotRequired[list[tuple[int, int, int, int]]]
    requests: NotRequired[list[RequestShape]]
    after: NotRequired[list[RequestShape]]
    curve: NotRequired[list[PointShape]]
    weights_touched: NotRequired[float | None]


def seen(record: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """`seen`: what the judge said where a target was asked for, most often first.

    `confusion`: for objects and styles, how often each label (row) was judged as which (column).
    """
    protocol = str(record["protocol"]).removesuffix("-subset")
    if "labels" not in record or protocol not in (pocket.NAME, unlearncanvas.NAME):
        return {"seen": {}, "confusion": {}}
    try:
        objects, styles, asked = _judged(protocol, record["labels"])
    except IndexError:
        raise RunError(f"{file} holds labels that {protocol} does not have; {REMEDY}.") from None
    said_of = {}
    for name in record.get("per_concept", {}):
        if name not in objects and name not in styles:
            raise RunError(f"{file} has scores of {name!r}, unknown to {protocol}; {REMEDY}.")
        index, names = (1, styles) if name in styles else (0, objects)
        label = names.index(name)
        said = Counter(names[e[2 + index]] for e in asked if e[index] == label)
        said_of[name] = said.most_common()
    confusion = {}
    for index, (kind, names) in enumerate({"objects": objects, "styles": styles}.items()):
        number = Counter((entry[index], entry[2 + index]) for entry in asked)
        met = sorted({label for pair in number for label in pair})  # a subset meets some alone
        mistakes = [
            f"{names[a]} as {names[b]} {count}×" for (a, b), count in number.most_common() if a != b
        ]
        confusion[kind] = {
            "labels": [names[label] for label in met],
            "counts": [[number[a, b] for b in met] for a in met],
            "mistakes": mistakes,
        }
    return {"seen": said_of, "confusion": confusion}


def _judged(
    protocol: str, labels: Sequence[Sequence[int]]
) -> tuple[Sequence[str], Sequence[str], list[tuple[int, int, int, int]]]:
    """(objects, styles, [object asked, style asked, object seen, style seen])."""
    if protocol == pocket.NAME:
        catalogue = pocket.catalogue()
        objects, styles = catalogue.objects, catalogue.styles
        pairs = [(objects.index(o), styles.index(s)) for o, s in catalogue.pairs()]
    else:
        objects, styles = OBJECTS, THEMES
        pairs = [(o, s) for s in range(len(THEMES)) for o in range(len(OBJECTS))]
    asked = [(*pairs[index], seen, style) for _, index, seen, style in labels]
    for name, style, shown, said in asked:
        if not (name < len(objects) > shown >= 0 and style < len(styles) > said >= 0):
            raise IndexError(f"{name}, {style}, {shown}, {said}")
    return objects, styles, asked
