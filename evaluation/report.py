"""`erasure report`: what was erased, how well, what it cost; one run or several side by side."""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erasure.errors import SettingError
from erasure.storage import atomic
from evaluation.facts import facts
from evaluation.page import render, shown
from evaluation.ranking import rankings


def report(runs: Sequence[Path], out: Path) -> list[Path]:
    """Write `out` (a self-contained .html) and, beside it, .json, .csv and .md of the same figures.

    Each run needs a finished erasure; scores and attacks are taken as they are there. EditError
    for a folder without an edit, SettingError for no run, one twice, or an `out` that is no .html.
    """
    if not runs:
        raise SettingError("report needs at least one run's folder.")
    if out.suffix != ".html":
        raise SettingError(f"out must end in .html; got {out}.")
    places = [run.resolve() for run in runs]
    twice = next((run for run in runs if places.count(run.resolve()) > 1), None)
    if twice is not None:
        raise SettingError(f"{twice} is named twice.")
    found = [facts(run) for run in runs]
    if len({entry["name"] for entry in found}) < len(found):
        for entry, place in zip(found, places, strict=True):
            entry["name"] = "/".join(place.parts[-2:])
    groups = {"scores": rankings(found), "attacks": rankings(found, "attacks")}
    table = rows(found)
    files = {
        out: render(found, groups),
        out.with_suffix(".json"): json.dumps({"runs": found, "groups": groups}, indent=2) + "\n",
        out.with_suffix(".csv"): _csv(table),
        out.with_suffix(".md"): _markdown(groups, table),
    }
    for file, text in files.items():
        with atomic(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return list(files)


def rows(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One flat row per run, protocol or attack, and score.

    Rows of one protocol with the same `stamp` (eight letters of its digest) may be compared.
    """
    flat = []
    for entry in found:
        head = {
            "run": entry["run"],
            "method": entry["method"],
            "concepts": ", ".join(entry["concepts"]),
        }
        judged = [*entry["scores"].items(), *entry["attacks"].items()]
        for name, record in judged:
            digest = hashlib.sha256(json.dumps(record["stamp"], sort_keys=True).encode())
            for score, value in record["scores"].items():
                base = record["baseline"].get(score, {})
                flat.append(
                    {
                        **head,
                        "judged by": name,
                        "stamp": digest.hexdigest()[:8],
                        "score": score,
                        **{key: _rounded(value[key]) for key in ("value", "low", "high")},
                        "n": value["n"],
                        "un-erased": _rounded(base.get("value")),
                    }
                )
    return flat


def _rounded(value: float | None) -> float | str:
    return "" if value is None else float(f"{value:.6g}")


def _csv(table: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    if table:
        writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    return text.getvalue()


def _markdown(groups: Mapping[str, Sequence[Mapping[str, Any]]], table: Sequence[Any]) -> str:
    """The rankings as tables of rates in percent, then every row."""
    if not table:
        return "No scores yet.\n"
    lines = []
    for group in (*groups["scores"], *groups["attacks"]):
        keys = list(dict.fromkeys(key for row in group["rows"] for key in row["scores"]))
        ranked = [
            {
                **{key: row[key] for key in ("name", "method")},
                "concepts": ", ".join(row["concepts"]),
                **{k: shown(row["scores"][k]) if k in row["scores"] else "" for k in keys},
            }
            for row in group["rows"]
        ]
        lines += [f"## {group['protocol']}", ""]
        if group["differs"]:
            lines += [f"Ranked apart; the stamp differs in {'; '.join(group['differs'])}.", ""]
        lines += [*_table(ranked), ""]
    return "\n".join([*lines, "## Every figure", "", *_table(table)]) + "\n"


def _table(table: Sequence[Mapping[str, Any]]) -> list[str]:
    head = list(table[0])
    cells = [[str(row[key]).replace("|", "\\|") for key in head] for row in table]
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *cells)]
