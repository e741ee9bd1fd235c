"""Where things stand in the report's drawings: numbers for SVG, no drawing here."""

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT, EDGE = 640, 340, 52  # SVG units
NEAR = 16  # points closer than this share one label
LINES = ("Acc_r", "Acc_o", "Acc_f")


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
