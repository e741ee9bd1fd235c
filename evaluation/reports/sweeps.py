"""A sweep's report: its methods side by side, each over its cells, and every cell in a row."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erasure.exports.writing.publishing import without_paths
from evaluation.reports.facts import facts
from evaluation.reports.page import filled, shown
from evaluation.reports.plots import trade_off
from evaluation.reports.public import published, without_folder
from evaluation.reports.ranking import FAMILIES, rankings
from evaluation.sweeping.cells import read_sweep, state_of
from evaluation.sweeping.showing import failure

Row = dict[str, Any]


def sweep_facts(folder: Path) -> dict[str, Any]:
    """What a report says of a sweep: `cells` as they stand, `runs`, `groups` and `methods`.

    `runs` are the facts of all that have a finished erasure, `groups` their rankings as in any
    report; `methods` has, for each of these, a method's means over its cells with the least and the
    most.
    """
    record = read_sweep(folder)
    cells = {cell["name"]: cell for cell in record["cells"]}
    erased = [name for name in cells if (folder / name / "edit.json").is_file()]
    found = [{**facts(folder / name), "name": name, "run": name} for name in erased]
    public = published(found)
    groups = {"scores": rankings(public), "attacks": rankings(public, "attacks")}
    told = [
        {
            "name": name, "method": cell["method"], "concepts": cell["concepts"],
            "seed": cell["seed"], "state": state_of(cell),
            "failure": without_paths(failure(cell)),
            "seconds": round(sum(step.get("seconds", 0.0) for step in cell["steps"]), 1),
        }
        for name, cell in cells.items()
    ]  # fmt: skip
    return {
        "grid": without_paths(record["grid"]),
        "cells": told,
        "runs": public,
        "groups": groups,
        "methods": {kind: [over_cells(group) for group in groups[kind]] for kind in groups},
    }


def over_cells(group: Mapping[str, Any]) -> list[Row]:
    """One row per method of a ranking, the best first: means over its cells, least and most."""
    by_method = dict[str, list[Mapping[str, Any]]]()
    for row in group["rows"]:
        by_method.setdefault(row["method"], []).append(row)
    rows = [_over(method, own) for method, own in by_method.items()]
    if all(row.get("kept") for row in rows):
        rows.sort(key=lambda row: -(row["erased"]["value"] + row["kept"]["value"]))
    elif all("ASR" in row["scores"] for row in rows):
        rows.sort(key=lambda row: row["scores"]["ASR"]["value"])
    return rows


def _over(method: str, own: Sequence[Mapping[str, Any]]) -> Row:
    keys = [key for key in own[0]["scores"] if all(key in row["scores"] for row in own)]
    seconds = [row["seconds"] for row in own if row["seconds"] is not None]
    row: Row = {
        "name": method, "method": method, "cells": len(own),
        "scores": {
            key: {**own[0]["scores"][key], **_spread([r["scores"][key]["value"] for r in own])}
            for key in keys
        },
        "seconds": _spread(seconds) if seconds else None,
        "is_cut": any(r["is_cut"] for r in own),
    }  # fmt: skip
    for key in ("erased", "kept"):
        if all(r.get(key) for r in own):
            row[key] = _spread([r[key]["value"] for r in own])
    if all(r.get("untouched") for r in own):
        row["untouched"] = _spread([r["untouched"]["value"] for r in own])
    return row


def _spread(values: Sequence[float]) -> dict[str, float]:
    """The mean, between the least and the most."""
    return {"value": sum(values) / len(values), "low": min(values), "high": max(values)}


def by_concept(group: Mapping[str, Any], methods: Sequence[Row]) -> dict[str, Any] | None:
    """The first score of how much is erased, of each concept by each method: means over seeds.

    None where the ranking's scores tell nothing of that.
    """
    known = [erased[0].lstrip("-") for erased, _ in FAMILIES]
    key = next((k for k in (*known, "ASR") if all(k in r["scores"] for r in group["rows"])), None)
    if key is None:
        return None
    seen = dict[str, dict[str, list[float]]]()
    for row in group["rows"]:
        own = seen.setdefault("+".join(row["concepts"]), {})
        own.setdefault(row["method"], []).append(row["scores"][key]["value"])
    names = [row["method"] for row in methods]
    return {
        "score": key,
        "methods": names,
        "rows": [
            (concept, [_mean_text(own.get(name)) for name in names])
            for concept, own in sorted(seen.items())
        ],
    }


def _mean_text(values: Sequence[float] | None) -> str:
    return f"{100 * sum(values) / len(values):.1f}" if values else "–"


def sweep_record(told: Mapping[str, Any]) -> dict[str, Any]:
    """The report's .json: as any report's, and the sweep beside it."""
    return {
        "runs": [without_folder(entry) for entry in told["runs"]],
        "groups": told["groups"],
        "sweep": {key: told[key] for key in ("grid", "cells", "methods")},
    }


def sweep_page(told: Mapping[str, Any], name: str) -> str:
    """HTML of a sweep's facts."""
    parts = [
        {
            "group": group, "methods": rows, "by_concept": by_concept(group, rows),
            "picture": trade_off(rows, group["rows"]),
        }
        for kind in ("scores", "attacks")
        for group, rows in zip(told["groups"][kind], told["methods"][kind], strict=True)
    ]  # fmt: skip
    return filled("sweep.html.jinja", name=name, parts=parts, cells=told["cells"])


def sweep_tables(told: Mapping[str, Any]) -> list[tuple[str, list[dict[str, str]]]]:
    """The methods' tables by their titles, and of the cells that are not done."""
    tables = []
    for kind in ("scores", "attacks"):
        for group, rows in zip(told["groups"][kind], told["methods"][kind], strict=True):
            table = [
                {
                    "method": row["method"] + (" (cut by its budget)" if row["is_cut"] else ""),
                    "cells": str(row["cells"]),
                    **{key: mean_text(score) for key, score in row["scores"].items()},
                    "seconds": "" if row["seconds"] is None else seconds_text(row["seconds"]),
                }
                for row in rows
            ]  # fmt: skip
            tables.append((f"{group['protocol']}: means over cells, least–most", table))
    open_ = [
        {"cell": cell["name"], "state": cell["state"], "why": cell["failure"]}
        for cell in told["cells"]
        if cell["state"] != "done"
    ]
    return [*tables, *([("Not done", open_)] if open_ else [])]


def mean_text(score: Mapping[str, Any]) -> str:
    """A mean in its unit, with the least and the most of the cells."""
    return f"{shown(score)} ({shown(score, 'low')}–{shown(score, 'high')})"


def seconds_text(spread: Mapping[str, float]) -> str:
    return f"{spread['value']:.0f} ({spread['low']:.0f}–{spread['high']:.0f})"
