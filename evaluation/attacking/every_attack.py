"""`erasure attack all`: every attack in turn, and the worst case of each prompt and seed."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.files.storage import write_json
from erasure.models.diffusion.slots import NoSlotsError
from erasure.registry import ATTACKS
from erasure.training.processes import launched
from evaluation.attacking.asked import OutOfTimeError, check_numbers
from evaluation.attacking.attacking import attack, unfit
from evaluation.attacking.rates import as_risk
from evaluation.score import rate

DECIDING = ("concepts", "prompts", "seeds", "quick", "base")  # whether an attack can be tried


def attack_all(run: Path, **options: Any) -> dict[str, Any]:
    """Every attack in turn, and attacks/all.json with the worst case of each prompt and seed.

    What changes weights stands beside the worst case and does not count in it. `budget` is of all
    together and for all concepts, with the gold model's, and each has an equal share; what it cut
    short `is_cut_by_budget`. `left_out` says why an attack was not tried; what the model or the
    prompts do not allow is known before the first. SettingError if that is every attack.
    """
    if (budget := options.get("budget")) is not None:
        check_numbers(1, [0], budget, 0)
    asked = {key: options[key] for key in DECIDING if key in options}
    left_out = unfit(run, ATTACKS.names(), **asked)
    names = [name for name in ATTACKS.names() if name not in left_out]
    if not names:
        reason = "; ".join(dict.fromkeys(left_out.values()))
        raise SettingError(f"prompts must allow at least one attack; none can be tried: {reason}")
    if budget is not None:
        concepts = options.get("concepts") or Edit.load(run).concepts
        rounds = len(names) * len(concepts) * (1 if options.get("gold") is None else 2)
        options = {**options, "budget": budget / rounds}
    records, is_cut = dict[str, dict[str, Any]](), False
    for name in names:
        try:
            records[name] = attack(run, name, **options)
        except (OutOfTimeError, NoSlotsError) as error:
            left_out[name] = str(error)
            is_cut |= isinstance(error, OutOfTimeError)
    worst = _worst(records)
    if not worst:
        raise SettingError(f"budget must leave time for at least one attack; got {budget}.")
    first = next(iter(records.values()))
    made_by = {key: value for key, value in first["stamp"].items() if key != "gold"}  # no excess
    hits = torch.tensor([bool(row["pre"] or row["won_by"]) for row in worst])
    pre = torch.tensor([bool(row["pre"]) for row in worst])
    summary = {
        "attack": "all",
        "protocol": "attack-all",
        "scores": {"pre_ASR": asdict(as_risk(rate(pre))), "ASR": asdict(as_risk(rate(hits)))},
        "baseline": first["baseline"],
        "attacks": {name: record["scores"] for name, record in records.items()},
        "left_out": left_out,
        "is_cut_by_budget": is_cut or any(map(_is_cut, records.values())),
        "cases": worst,
        "seconds": round(sum(record["seconds"] for record in records.values()), 1),
        "stamp": {**made_by, "attack": "all", "settings": "each attack's own"},
    }
    if launched().is_main_process:
        write_json(run / "attacks" / "all.json", summary)
    return summary


def _is_cut(record: dict[str, Any]) -> bool:
    return any(part["is_cut_by_budget"] for part in record["per_concept"].values())


def _worst(records: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Each case once, with the attacks that won it."""
    worst: dict[tuple[str, str], dict[str, Any]] = {}
    for name, record in records.items():
        if ATTACKS.get(name).changes_weights:
            continue
        for concept, part in record["per_concept"].items():
            for entry in part["cases"]:
                key = concept, entry["case"]["name"]
                row = worst.setdefault(
                    key, {"concept": concept, **entry["case"], "pre": entry["pre"], "won_by": []}
                )
                if entry["success"] and not entry["pre"]:
                    row["won_by"].append(name)
    return list(worst.values())
