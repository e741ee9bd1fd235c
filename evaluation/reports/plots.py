"""Where things stand in the report's drawings: numbers for SVG, no drawing here."""

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT, EDGE = 640, 340, 52  # SVG units
NEAR = 16  # points closer than this share one label
LINES = ("Acc_r", "Acc_o", "Acc_f")
FROM_GOLD = (  # 0 for a model that never knew the concept, or was retrained without it
    "judge_distance", "picture_distance", "divergence", "loss_gap_caption", "loss_gap_empty",
    "loss_gap_state", "relearn_ratio", "distance", "gap",
)  # fmt: skip
FROM_RETRAINED = ("probe",)  # of which the retrained model has a value of its own
NAMES, BAND = 150, 30  # where a row of such a distance begins, and its height
BEYOND = 0.5  # how far past either model a place is drawn; farther ones stand there


def trade_off(
    rows: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any] | None:
    """Each run in the plane of erased (across) and kept (up), with intervals; rows are a ranking's.

    None where a run has no such pair of scores. `untouched` is the height of the un-erased model,
    `cells` are runs that are shown without a label and an interval.
    """
    every = [*rows, *cells]
    if not all(row.get("kept") for row in every):
        return None
    least = min(row[key]["low"] for row in rows for key in ("erased", "kept"))
    least = min([least, *(row[key]["value"] for row in cells for key in ("erased", "kept"))])
    least, ticks = _ticks(min(least, 0.9))
    points: list[dict[str, Any]] = []
    for number, row in enumerate(rows, 1):
        x, left, right = (_across(row["erased"][k], least) for k in ("value", "low", "high"))
        y, low, high = (_up(row["kept"][k], least) for k in ("value", "low", "high"))
        near = [p for p in points if abs(p["x"] - x) < NEAR and abs(p["y"] - y) < NEAR]
        if near:
            near[0]["label"] += f", {number}"
        label = "" if near else str(number)
        points.append({"x": x, "y": y, "left": left, "right": right, "low": low, "high": high,
                       "label": label})  # fmt: skip
    known = [row["untouched"]["value"] for row in rows if row.get("untouched")]
    dots = [(_across(c["erased"]["value"], least), _up(c["kept"]["value"], least)) for c in cells]
    return {
        "points": points,
        "cells": dots,
        "across": [(_across(tick, least), f"{100 * tick:.0f}") for tick in ticks],
        "up": [(_up(tick, least), f"{100 * tick:.0f}") for tick in ticks],
        "untouched": _up(max(sum(known) / len(known), least), least) if known else None,
    }


def curve(points: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Accuracies on the way through several requests, as lines; None without points.

    Points have request, step and accuracies. `bounds` are where requests begin, with their number.
    """
    if not points:
        return None
    start, bounds, steps, last = 0, [(0, 0)], [], 0
    request = points[0]["request"]
    for point in points:
        if point["request"] != request:
            request, start = point["request"], last
            bounds.append((start, len(bounds)))
        last = start + point["step"]
        steps.append(last)
    whole = max(last, 1)
    lines = []
    for name in LINES:
        # a request's classes are others than the last one's: its line begins afresh
        for number in sorted({point["request"] for point in points}):
            places = [
                (_across(step / whole, 0.0), _up(point[name], 0.0))
                for step, point in zip(steps, points, strict=True)
                if name in point and point["request"] == number
            ]
            if places:
                joined = " ".join(f"{x},{y}" for x, y in places)
                lines.append({"name": name, "points": joined, "end": places[-1]})
    _, ticks = _ticks(0.0)
    return {
        "lines": lines,
        "names": [name for name in LINES if any(line["name"] == name for line in lines)],
        "bounds": [(_across(at / whole, 0.0), number + 1) for at, number in bounds],
        "up": [(_up(tick, 0.0), f"{100 * tick:.0f}") for tick in ticks],
        "steps": whole,
    }


def from_gold(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Each run between a model that never knew its concepts (left) and the un-erased one (right).

    A place is the run's distance from gold over the un-erased model's, 0 to 1; below 0 it went past
    gold. `floor` is how far another gold model may lie to either side. Rows have scores, baseline,
    floor and the retrained model's scores, as a ranking's; None without such distances.
    """
    found: list[dict[str, Any]] = []
    for name in (*FROM_GOLD, *FROM_RETRAINED):
        places = [_place(name, row, row["scores"]) for row in rows]
        floors = [
            None if name in FROM_RETRAINED else _place(name, row, row["floor"]) for row in rows
        ]
        if all(place is None for place in places):
            continue
        y = EDGE + BAND * len(found)
        points: list[dict[str, Any]] = []
        for number, place in enumerate(places, 1):
            if place is None:
                continue
            x = _between(place)
            near = next((p for p in points if abs(p["x"] - x) < NEAR), None)
            if near:
                near["label"] += f", {number}"
            points.append({"x": x, "y": y, "label": "" if near else str(number)})
        widest = max((abs(floor) for floor in floors if floor is not None), default=None)
        floor = None if widest is None else (_between(-widest), _between(widest))
        found.append({"name": name, "y": y, "points": points, "floor": floor})
    ends = {"gold": _between(0.0), "untouched": _between(1.0)}
    return {"lines": found, "height": EDGE + BAND * len(found), **ends} if found else None


def _place(name: str, row: Mapping[str, Any], scores: Mapping[str, Any]) -> float | None:
    """A score's share of the way from gold to the un-erased model; None where it is not known."""
    if name not in scores:
        return None
    value = scores[name]["value"]
    if name == "relearn_ratio":  # steps over gold's: the un-erased model needs none
        return 1 - value
    base, zero = row["baseline"].get(name), 0.0
    if name in FROM_RETRAINED and base is not None:
        known = row["retrained"].get(name)
        least = base["value"] if base["low"] is None else base["low"]
        # no way lies between two that cannot be told apart
        base, zero = (base, known["value"]) if known and known["value"] < least else (None, 0.0)
    if base is None or base["value"] == zero:
        return None
    return (value - zero) / (base["value"] - zero)


def _between(place: float) -> float:
    share = (min(max(place, -BEYOND), 1 + BEYOND) + BEYOND) / (1 + 2 * BEYOND)
    return round(NAMES + share * (WIDTH - NAMES - EDGE), 1)


def _ticks(least: float) -> tuple[float, list[float]]:
    """(where the axis begins, its marks up to 1), with at most six steps of a round size."""
    size = next(s for s in (0.02, 0.05, 0.1, 0.2) if (1 - least) / s <= 5 or s == 0.2)
    count = -int(-(1 - max(least, 0.0)) / size // 1)
    first = max(1 - count * size, 0.0)
    return first, [1 - size * i for i in range(count, -1, -1) if 1 - size * i > -1e-9]


def _across(share: float, least: float) -> float:
    return round(EDGE + (max(share, least) - least) / (1 - least) * (WIDTH - 2 * EDGE), 1)


def _up(share: float, least: float) -> float:
    return round(HEIGHT - EDGE - (max(share, least) - least) / (1 - least) * (HEIGHT - 2 * EDGE), 1)
