"""`erasure report`: what was erased, how well, what it cost; one run or several side by side."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from erasure.errors import SettingError
from erasure.files.naming import places_of, short_names
from erasure.files.storage import atomic
from evaluation.reports.facts import facts
from evaluation.reports.page import MADE_BY, render, shown
from evaluation.reports.public import published, without_folder
from evaluation.reports.ranking import how_judged, rankings
from evaluation.reports.sweeps import sweep_facts, sweep_page, sweep_record, sweep_tables
from evaluation.sweeping.cells import RECORD

SUFFIXES = (".html", ".json", ".csv", ".md")
KINDS = {"scores", "attacks"}
COLUMNS = (
    "run", "method", "concepts", "judged by", "stamp", "score", "value", "low", "high", "n",
    "un-erased",
)  # fmt: skip
NO_SCORES, EVERY = "No scores yet.\n", "## Every figure"


def report(runs: Sequence[Path | str], out: Path | str) -> list[Path]:
    """Write `out` (a self-contained .html) and, beside it, .json, .csv and .md of the same figures.

    Each run needs a finished erasure; scores and attacks are taken as they are there. A sweep's
    folder, alone, stands for its cells, and its page compares methods over them. EditError
    for a folder without an edit, SettingError for no run, one twice, an `out` that is no .html, or
    files in those places that no report wrote. All four are written, or none.
    """
    runs, out = [Path(run) for run in runs], Path(out)
    if not runs:
        raise SettingError("report needs at least one run's folder.")
    if out.suffix != ".html":
        raise SettingError(f"out must end in .html; got {out}.")
    places = places_of(runs)
    for suffix in SUFFIXES:
        _refuse_foreign(out.with_suffix(suffix))
    sweep = next((run for run in runs if (run / RECORD).is_file()), None)
    if sweep is not None and len(runs) > 1:
        raise SettingError(f"{sweep} is a sweep, and has a report of its own; name it alone.")
    texts = _of_sweep(sweep) if sweep else _of_runs(runs, places)
    files = {out.with_suffix(suffix): text for suffix, text in texts.items()}
    with ExitStack() as stack:  # the places are taken once every text is on the disk
        for file, text in files.items():
            stack.enter_context(atomic(file)).write_text(text, encoding="utf-8")
    return list(files)


def _of_runs(runs: Sequence[Path], places: Sequence[Path]) -> dict[str, str]:
    """The files' texts by their suffixes."""
    found = [facts(run) for run in runs]
    for entry, name, label in zip(found, short_names(places), short_names(places, 2), strict=True):
        entry["name"], entry["run"] = name, label
    public = published(found)
    groups = {"scores": rankings(public), "attacks": rankings(public, "attacks")}
    table = rows(public)
    record = {"runs": [without_folder(entry) for entry in public], "groups": groups}
    texts = (render(public, groups), _json(record), _csv(table), _markdown(groups, table))
    return dict(zip(SUFFIXES, texts, strict=True))


def _of_sweep(folder: Path) -> dict[str, str]:
    """The same of a sweep; a row's `seed` stands behind what other reports have."""
    told = sweep_facts(folder)
    seeds = {cell["name"]: cell["seed"] for cell in told["cells"]}
    table = [{**row, "seed": seeds[row["run"]]} for row in rows(told["runs"])]
    parts = [[f"## {title}", "", *_table(lines), ""] for title, lines in sweep_tables(told)]
    lines = [
        *(line for part in parts for line in part),
        EVERY,
        "",
        *(_table(table) if table else []),
    ]
    page = sweep_page(told, folder.resolve().name)
    marked = "\n".join(lines) + "\n" if table else NO_SCORES
    return dict(zip(SUFFIXES, (page, _json(sweep_record(told)), _csv(table), marked), strict=True))


def _json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=2) + "\n"


def _refuse_foreign(file: Path) -> None:
    """SettingError if something is there that no report wrote."""
    if not os.path.lexists(file):
        return
    try:
        text = file.read_text(encoding="utf-8")
        is_ours = {
            ".html": lambda: MADE_BY in text,
            ".json": lambda: _is_ours(json.loads(text)),
            ".csv": lambda: text in ("", "\n") or text.startswith(",".join(COLUMNS)),
            ".md": lambda: text == NO_SCORES or f"\n{EVERY}\n\n| {' | '.join(COLUMNS)} |" in text,
        }[file.suffix]()
    except (OSError, ValueError, RecursionError):
        is_ours = False
    if not is_ours:
        raise SettingError(
            f"out must name new files, or a report's own; {file} is there and no report wrote it. "
            "Name another .html; nothing was written."
        )


def _is_ours(record: Any) -> bool:
    is_shaped = isinstance(record, dict) and set(record) - {"sweep"} == {"runs", "groups"}
    return is_shaped and isinstance(record["groups"], dict) and set(record["groups"]) == KINDS


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
            stamp = json.dumps(how_judged(record["stamp"]), sort_keys=True)
            digest = hashlib.sha256(stamp.encode())
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
        return NO_SCORES
    lines = []
    for group in (*groups["scores"], *groups["attacks"]):
        keys = list(dict.fromkeys(key for row in group["rows"] for key in row["scores"]))
        ranked = [
            {
                "name": row["name"] + (" (cut by its budget)" if row["is_cut"] else ""),
                "method": row["method"],
                "concepts": ", ".join(row["concepts"]),
                **{k: shown(row["scores"][k]) if k in row["scores"] else "" for k in keys},
            }
            for row in group["rows"]
        ]
        lines += [f"## {group['protocol']}", ""]
        if group["differs"]:
            lines += [f"Ranked apart; the stamp differs in {'; '.join(group['differs'])}.", ""]
        lines += [*_table(ranked), ""]
    return "\n".join([*lines, EVERY, "", *_table(table)]) + "\n"


def _table(table: Sequence[Mapping[str, Any]]) -> list[str]:
    head = list(table[0])
    cells = [[str(row[key]).replace("|", "\\|") for key in head] for row in table]
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *cells)]
