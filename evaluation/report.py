"""`erasure report`: what was erased, how well, what it cost; one run or several side by side."""

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.exporting import open_run, open_vit
from erasure.storage import atomic
from evaluation.page import render
from evaluation.protocols import pocket
from evaluation.score import interval

RATES = ("UA", "IRA", "CRA", "CRA_target")
NOT_COMPARED = ("images", "versions")  # parts of a stamp that leave two rows comparable
MOST = 12  # tensors and examples shown


def report(runs: Sequence[Path], out: Path) -> list[Path]:
    """Write `out` (a self-contained .html) and, beside it, .json, .csv and .md of the same figures.

    Each run needs a finished erasure; scores and attacks are taken as they are there. EditError
    for a folder without an edit, SettingError for no run, or an `out` that is no .html.
    """
    if not runs:
        raise SettingError("report needs at least one run's folder.")
    if out.suffix != ".html":
        raise SettingError(f"out must end in .html; got {out}.")
    found = [facts(run) for run in runs]
    if len({entry["name"] for entry in found}) < len(found):
        for entry, run in zip(found, runs, strict=True):
            entry["name"] = "/".join(run.resolve().parts[-2:])
    groups = comparable(found)
    pictures = {str(run): sorted((run / "images").glob("before-after-*.png")) for run in runs}
    table = rows(found)
    files = {
        out: render(found, groups, pictures),
        out.with_suffix(".json"): json.dumps({"runs": found, "groups": groups}, indent=2) + "\n",
        out.with_suffix(".csv"): _csv(table),
        out.with_suffix(".md"): _markdown(table),
    }
    for file, text in files.items():
        with atomic(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return list(files)


def facts(run: Path) -> dict[str, Any]:
    """Everything the report says about one run, as plain JSON."""
    edit = Edit.load(run)
    file = run / "config.json"
    config = json.loads(file.read_text()) if file.is_file() else {}
    sources = config.get("sources", {})
    return {
        "run": str(run),
        "name": run.resolve().name,
        "method": edit.method,
        "model": edit.base,
        "concepts": [concept.name for concept in edit.concepts],
        "kinds": sorted({concept.kind for concept in edit.concepts}),
        "settings": [
            {"name": name, "value": value, "source": sources.get(name, "")}
            for name, value in edit.settings.items()
        ],
        "seconds": config.get("seconds"),
        "peak_memory_gb": config.get("peak_memory_gb"),
        "device": config.get("device", ""),
        "scores": {f.stem: _scores(json.loads(f.read_text())) for f in _records(run / "scores")},
        "attacks": {f.stem: _attack(run, json.loads(f.read_text())) for f in _attacks(run)},
        "tensors": moved(run, edit),
        "storage_mb": round((run / "edit.safetensors").stat().st_size / 1e6, 2),
    }


def moved(run: Path, edit: Edit) -> list[dict[str, Any]]:
    """Each changed tensor's relative change |new - old| / |old|, largest first."""
    model = open_vit(run) if edit.is_of_classes else open_run(run)
    current = model.parameters()
    changes = [
        {
            "name": name,
            "size": old.numel(),
            "change": float(
                (current[name].detach() - old).float().norm() / old.float().norm().clamp_min(1e-12)
            ),
        }
        for name, old in model.originals.items()
    ]
    return sorted(changes, key=lambda entry: -entry["change"])


def comparable(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs that were judged alike, best first, one group per protocol and stamp.

    A group after the first of its protocol names the stamp's fields that differ from the first's.
    """
    groups: list[dict[str, Any]] = []
    for entry in found:
        for protocol, record in entry["scores"].items():
            if "UA" not in record["scores"]:
                continue
            stamp = {k: v for k, v in record["stamp"].items() if k not in NOT_COMPARED}
            group = next(
                (g for g in groups if (g["protocol"], g["stamp"]) == (protocol, stamp)), None
            )
            if group is None:
                first = next((g for g in groups if g["protocol"] == protocol), None)
                differs = [] if first is None else _differences(first["stamp"], stamp)
                group = {"protocol": protocol, "stamp": stamp, "differs": differs, "rows": []}
                groups.append(group)
            scores = record["scores"]
            group["rows"].append(
                {
                    "name": entry["name"],
                    "run": entry["run"],
                    "method": entry["method"],
                    "concepts": entry["concepts"],
                    "seconds": entry["seconds"],
                    "scores": scores,
                    "erased": scores["UA"]["value"],
                    "kept": (scores["IRA"]["value"] + scores["CRA"]["value"]) / 2,
                }
            )
    for group in groups:
        group["rows"].sort(key=lambda row: -(row["erased"] + 2 * row["kept"]))
    return groups


def rows(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One flat row per run, protocol or attack, and score."""
    flat = []
    for entry in found:
        head = {
            "run": entry["run"],
            "method": entry["method"],
            "concepts": ", ".join(entry["concepts"]),
        }
        for kind in ("scores", "attacks"):
            for name, record in entry[kind].items():
                for score, value in record["scores"].items():
                    base = record["baseline"].get(score, {})
                    flat.append(
                        {
                            **head,
                            "judged by": name,
                            "score": score,
                            "value": round(value["value"], 4),
                            "low": round(value["low"], 4),
                            "high": round(value["high"], 4),
                            "n": value["n"],
                            "un-erased": round(base["value"], 4) if base else "",
                        }
                    )
    return flat


def _scores(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "scores": {name: _with_interval(name, s) for name, s in record["scores"].items()},
        "baseline": record["baseline"],
        "stamp": record["stamp"],
        "seen": _seen(record),
    }


def _attack(run: Path, record: dict[str, Any]) -> dict[str, Any]:
    """An attack's figures and some of its successes, with the images' places."""
    examples = []
    for concept, part in record.get("per_concept", {}).items():
        folder = run / "attacks" / record["attack"] / concept.replace(" ", "_") / "images"
        for case in part["cases"]:
            image = folder / f"{case['case']['name']}.png"
            if case["found"] and case["found"]["success"] and image.is_file():
                examples.append({"prompt": case["found"]["prompt"], "image": str(image)})
    return {
        "scores": {name: _with_interval(name, s) for name, s in record["scores"].items()},
        "baseline": record["baseline"],
        "seconds": record["seconds"],
        "stamp": record["stamp"],
        "examples": examples[:MOST],
    }


def _with_interval(name: str, score: Mapping[str, Any]) -> dict[str, Any]:
    is_rate = name in RATES or name.endswith("ASR")
    low, high = interval(score["value"], score["stderr"], score["n"], is_rate=is_rate)
    return {**score, "low": low, "high": high}


def _seen(record: dict[str, Any]) -> dict[str, list[tuple[str, int]]]:
    """What the judge saw where a target was asked for, most often first, by target."""
    catalogue, seen = pocket.catalogue(), {}
    if "labels" not in record or not record["protocol"].startswith(pocket.NAME):
        return {}
    for name in record.get("per_concept", {}):
        is_style = name in catalogue.styles
        names = catalogue.styles if is_style else catalogue.objects
        said = Counter(
            names[style if is_style else label]
            for _, index, label, style in record["labels"]
            if name in catalogue.pairs()[index]
        )
        seen[name] = said.most_common()
    return seen


def _records(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def _attacks(run: Path) -> list[Path]:
    return [file for file in _records(run / "attacks") if file.stem != "all"]


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    names = sorted(first.keys() | second.keys())
    return [
        f"{name}: {first.get(name)} there, {second.get(name)} here"
        for name in names
        if first.get(name) != second.get(name)
    ]


def _csv(table: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    if table:
        writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    return text.getvalue()


def _markdown(table: Sequence[Mapping[str, Any]]) -> str:
    if not table:
        return "No scores yet.\n"
    head = list(table[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(row[key]) for key in head) + " |" for row in table]
    return "\n".join(lines) + "\n"
