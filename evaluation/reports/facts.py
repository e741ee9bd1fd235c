"""What there is to say about one run, read from its folder, as plain JSON."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from erasure.composing import parts_of
from erasure.edit import Edit
from erasure.errors import RunError
from erasure.files.naming import slug
from erasure.files.records import ROUNDING, AttackShape, read_record
from erasure.training.run_folder import run_record
from erasure_datasets.concept import Concept
from erasure_datasets.unlearncanvas import OBJECTS, THEMES
from evaluation.protocols import pocket
from evaluation.score import interval
from evaluation.seen import REMEDY, JudgedShape, seen

RATES = (
    "UA", "UA_own", "UA_in", "UA_out", "IRA", "CRA", "CRA_target", "Acc_f", "Acc_r", "Acc_o",
    "Acc_t", "Acc_corr", "Acc_ret", "Acc", "RA", "TA", "MIA", "min_Acc", "WC", "WF10", "max_Acc_o",
)  # fmt: skip
DISTANCES = ("FID", "perceptual", "distance", "gap")  # never below 0; KID may be
SHOWN = 8  # pictures in a row, and attacked cases
LOWEST = 3  # classes whose worst moment is named


def facts(run: Path) -> dict[str, Any]:
    """Everything the report says about one run.

    EditError for a folder without a finished edit, RunError for a damaged record, or a folder that
    is removed meanwhile.
    """
    try:
        return _facts(run)
    except OSError as error:
        raise RunError(f"{run} cannot be read whole: {error}.") from error


def _settings(edit: Edit, sources: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every setting with where it came from; of an edit of several erasures, whose it was."""
    told, parts = [], parts_of(edit)
    for part in parts:
        whose = f"{part['method']} ({', '.join(part['concepts'])}): " if edit.parts else ""
        known = sources if part is parts[-1] else {}  # config.json is the last one's
        told += [
            {"name": whose + name, "value": value, "source": known.get(name, "")}
            for name, value in part["settings"].items()
        ]
    return told


def _facts(run: Path) -> dict[str, Any]:
    edit, config = Edit.load(run), run_record(run)
    sources = config.get("sources", {})
    tensors, parts = moved(edit)
    return {
        "run": str(run),
        "folder": run,
        "name": run.resolve().name,
        "method": edit.method,
        "model": edit.base,
        "concepts": [concept.name for concept in edit.concepts],
        "anchors": {c.name: c.anchor for c in edit.concepts if c.anchor},
        "kinds": sorted({concept.kind for concept in edit.concepts}),
        "is_of_classes": edit.is_of_classifier,
        "command": config.get("command", ""),
        "settings": _settings(edit, sources),
        "quick": bool(config.get("quick")),
        "seed": config.get("seed"),
        "seconds": config.get("seconds"),
        "peak_memory_gb": config.get("peak_memory_gb"),
        "device": config.get("device", ""),
        "versions": config.get("versions", {}),
        "scores": {file.stem: _scored(file) for file in _records(run / "scores")},
        "attacks": {file.stem: _attacked(run, file) for file in _records(run / "attacks")},
        "pairs": pairs(run, edit.concepts),
        "changed": len(edit.shapes()),
        "tensors": tensors,
        "parts": parts,
        "storage_mb": round((run / "edit.safetensors").stat().st_size / 1e6, 2),
    }


def moved(edit: Edit) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Relative changes |new - old| / |old|: (of each changed tensor, of each part), largest first.

    A part is what the first three words of a tensor's name say: unet.mid_block.attentions.
    """
    parts: dict[str, list[float]] = {}
    for name, moved in edit.moved.items():
        sums = parts.setdefault(".".join(name.split(".")[:3]), [0, 0.0, 0.0])
        for index, value in enumerate(moved):
            sums[index] += value
    return _relative(edit.moved), _relative(parts)


def _relative(moved: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    found = [
        {"name": name, "size": int(size), "change": gone**0.5 / max(whole**0.5, 1e-12)}
        for name, (size, gone, whole) in moved.items()
    ]
    return sorted(found, key=lambda entry: -entry["change"])


def pairs(run: Path, concepts: Sequence[Concept]) -> list[dict[str, Any]]:
    """Pictures drawn before and after from the same noise, in rows: each concept, then the kept.

    They are the pictures that images/NAME and images/NAME-base both hold.
    """
    rows = []
    for base in sorted((run / "images").glob("*-base")):
        after = base.with_name(base.name.removesuffix("-base"))
        drawn = [file for file in base.iterdir() if file.suffix in (".png", ".jpg")]
        files = sorted(file.name for file in drawn if (after / file.name).is_file())
        left = list(files)
        for name in [*(concept.name for concept in concepts), ""]:
            chosen = [f for f in left if asks_for(f, name)] if name else left
            left = [file for file in left if file not in chosen]
            if chosen:
                step = max(len(chosen) / SHOWN, 1)
                picked = [chosen[int(i * step)] for i in range(min(len(chosen), SHOWN))]
                shown = [
                    {"of": named(f), "before": _in(run, base / f), "after": _in(run, after / f)}
                    for f in picked
                ]
                rows.append({"protocol": after.name, "concept": name, "pairs": shown})
    return rows


def asks_for(file: str, concept: str) -> bool:
    """Whether a picture's prompt names the concept, by the file names of protocols and attacks."""
    stem = Path(file).stem.rpartition("_seed")[0]
    known = _pairs_by_stem().get(stem)
    return concept in known if known else stem.startswith(f"{slug(concept)}_prompt")


@cache
def _pairs_by_stem() -> dict[str, tuple[str, str]]:
    """(object, style) by the part of the protocols' file names before the seed."""
    own = pocket.catalogue().pairs()
    return {
        **{f"{style}_{name}".replace(" ", "_"): (name, style) for name, style in own},
        **{f"{theme}_{name}": (name, theme) for theme in THEMES for name in OBJECTS},
    }


def named(file: str) -> str:
    """What a picture's file name says: "Pop Art cat, seed 188"."""
    words, _, seed = Path(file).stem.replace("_", " ").partition(" seed")
    return f"{words}, seed {seed}" if seed else words


def _scored(file: Path) -> dict[str, Any]:
    record: Mapping[str, Any] = read_record(file, JudgedShape, remedy=REMEDY)
    requests = record.get("after") or record.get("requests") or []
    return {
        "scores": _with_intervals(record["scores"]),
        "baseline": _with_intervals(record.get("baseline", {})),
        "per_concept": {
            name: _with_intervals(scores) for name, scores in record.get("per_concept", {}).items()
        },
        "floor": _mean_floor(record.get("floor", {})),
        "retrained": _with_intervals(record.get("retrained", {})),
        "probes": record.get("probes", {}),
        "worst": dict(_worst(record.get("worst", {}).get("classes", {}))),
        "looked": record.get("probe", {}).get("note", ""),
        "stamp": record.get("stamp", {}),
        **seen(record, file),
        "requests": requests,
        "curve": record.get("curve", []),
        "weights_touched": record.get("weights_touched"),
    }


def _worst(classes: Mapping[str, float]) -> list[tuple[str, float]]:
    """The kept classes that fell lowest on the way, the lowest first."""
    return sorted(classes.items(), key=lambda pair: pair[1])[:LOWEST]


def _mean_floor(floor: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What two gold models differ by, the mean over the concepts where it is known of all."""
    parts = list(floor.values())
    return {
        key: {"value": sum(abs(part[key]["value"]) for part in parts) / len(parts)}
        for key in (parts[0] if parts else {})
        if all(key in part for part in parts)
    }


def _attacked(run: Path, file: Path) -> dict[str, Any]:
    """An attack's figures, and some of its cases with the pictures' places, won ones first."""
    record: Mapping[str, Any] = read_record(file, AttackShape, remedy=REMEDY)
    cases, relearning = [], {}
    plain = run / "images" / "pocket"
    plain = plain if plain.is_dir() else run / "images" / "plain"
    parts = record.get("per_concept", {})
    for concept, part in parts.items():
        folder = run / "attacks" / file.stem / slug(concept) / "images"
        if not folder.is_dir():  # of an older version
            folder = folder.parent.with_name(concept.replace(" ", "_")) / "images"
        for case in part["cases"]:
            name, found = f"{case['case']['name']}.png", case["found"]
            places = {
                "un-erased": plain.with_name(f"{plain.name}-base") / name,
                "plain prompt": plain / name,
                "attacked": folder / name,
            }
            if found and all(place.is_file() for place in places.values()):
                facts = {"asked": case["case"]["prompt"], "concept": concept, **found}
                cases.append({**facts, "images": {k: _in(run, v) for k, v in places.items()}})
        if "steps" in part:
            random_is_cut = part.get("random_is_cut", part["is_cut_by_budget"])
            relearning[concept] = {
                "steps": part["steps"], "random_steps": part.get("random_steps"),
                "random_is_cut": random_is_cut, "came_back": part.get("came_back", True),
            }  # fmt: skip
    wins = [case for case in cases if case["success"]]
    return {
        "scores": _with_intervals(record["scores"]),
        "baseline": _with_intervals(record.get("baseline", {})),
        "seconds": record.get("seconds"),
        "stamp": record.get("stamp", {}),
        "criterion": sorted({part["criterion"] for part in parts.values()}),
        "is_cut_by_budget": is_cut(record),
        "relearning": relearning,
        "wins": len(wins),
        "cases": [*wins, *(case for case in cases if not case["success"])][:SHOWN],
    }


def is_cut(record: Mapping[str, Any]) -> bool:
    """Whether an attack's record says that its budget ended it: a rate that may be too low."""
    parts = record.get("per_concept", {}).values()
    return any(part.get("is_cut_by_budget", False) for part in (record, *parts))


def _with_intervals(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Each score with its 95 % interval, or None for the ends where no spread is known."""
    found = {}
    for name, score in scores.items():
        is_rate = name in RATES or name.endswith(("ASR", "ASR_gold"))
        stderr, n = score.get("stderr"), score.get("n")
        low, high = score.get("low"), score.get("high")
        if name in DISTANCES and score["value"] < -ROUNDING:
            raise RunError(f"{name} must not be below 0; a record says {score['value']:g}.")
        if is_rate and not 0 <= score["value"] <= 1:
            raise RunError(f"{name} must be a rate in 0 to 1; a record says {score['value']:g}.")
        if low is None or high is None:
            low = high = None
        if low is None and ((is_rate and n) or stderr):
            least = 0.0 if name in DISTANCES else -math.inf
            value, spread = score["value"], stderr or 0.0
            low, high = interval(value, spread, n or 1, is_rate=is_rate, least=least)
        # `excess` is a difference of two rates, in points of a percent
        unit = "percent" if is_rate or name == "H" else "points" if name == "excess" else "number"
        found[name] = {**score, "n": n, "low": low, "high": high, "unit": unit}
    return found


def _records(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def _in(run: Path, file: Path) -> str:
    return file.relative_to(run).as_posix()
