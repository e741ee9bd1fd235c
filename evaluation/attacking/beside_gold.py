"""An attack's rates beside those it has on a model that never knew the concept."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from erasure.edit import Edit
from erasure.erasing import planned
from erasure.errors import SettingError
from erasure.files.storage import write_json
from erasure.keeping import kept_edit
from erasure.models.built_in import GOLD
from erasure.opening import lasting_name, revision_of
from erasure.training.processes import launched
from erasure.training.run_folder import run_record
from erasure_datasets.concept import Concept
from evaluation.attacking.asked import OutOfTimeError
from evaluation.attacking.rates import as_risk
from evaluation.score import Score, mean, mean_of_rates, rate

Record = dict[str, Any]
KNOWS = 0.5  # a gold model that draws this share of plain prompts knows the concept


def gold_run(run: Path, gold: Path | str, *, base: Path | str | None = None) -> Path:
    """The run that holds a gold model's weights: `gold` if it is one, else RUN/gold, made once.

    RUN/gold has the run's own concepts, with their prompts. SettingError for a run of another base,
    or of a method other than gold; RunError if RUN/gold was made with other prompts, or the model
    has changed since.
    """
    edit, place = Edit.load(run), Path(gold)
    if (place / "edit.json").is_file():
        other = Edit.load(place)
        if other.method != "gold":
            raise SettingError(
                f"gold must be a run of `erasure erase gold`, or a model that never knew the "
                f"concept; {place} was made by {other.method}."
            )
        if (other.base, other.base_digest) != (edit.base, edit.base_digest):
            raise SettingError(f"gold must be of the same base, {edit.base}; got {other.base}.")
        return place
    if edit.sampling is not None:
        raise SettingError(
            f"gold must draw as the run does; {run} holds a one-step generator, and there is no "
            "gold of those."
        )
    concepts = edit.concepts
    plan = planned(
        str(base or edit.base), "gold", [concept.name for concept in concepts],
        out=run / "gold", kind=[concept.kind for concept in concepts],
        anchor=[concept.anchor for concept in concepts],
        config=None if base else run_record(run).get("config"),
        revision=revision_of(str(edit.base), edit, base),
        weights=GOLD if str(gold) == "pocket" else lasting_name(str(gold), "gold"), rehearsal=None,
    )  # fmt: skip
    record = {**plan.record, "concepts": [concept.as_json() for concept in concepts]}
    plan = replace(plan, concepts=concepts, record=record)
    kept_edit(plan.run, plan.record, lambda: plan.make(plan.method))
    return run / "gold"


def gold_record(
    attack: Callable[..., Record], run: Path, gold: Path | str, name: str, options: dict[str, Any]
) -> Record:
    """The same attack on the gold model, named as `gold`.

    SettingError if that knows a concept, or is a run with other prompts for one.
    """
    place = gold_run(run, gold, base=options["base"])
    own = {concept.name.casefold(): concept for concept in Edit.load(run).concepts}
    asked = [
        one if isinstance(one, Concept) else own.get(one.casefold(), one)
        for one in options["concepts"] or own.values()
    ]
    record = attack(place, name, **{**options, "concepts": asked})
    for concept, part in record["per_concept"].items():
        plain = part["scores"]["pre_ASR"]
        if plain["value"] >= KNOWS:
            raise SettingError(
                f"gold must never have known the concept; {gold} draws {concept} for "
                f"{plain['value']:.0%} of {plain['n']} plain prompts."
            )
    return {**record, "gold": str(Edit.load(place).settings.get("weights", ""))}


def beside_gold(run: Path, record: Record, floor: Record) -> Record:
    """The record with `ASR_gold`, and `excess` = ASR - ASR_gold, both over the cases of both.

    It is written in the place of the one without, and cut by its budget if either was. Its stamp
    says which model the floor is of.
    """
    parts = {}
    for name, part in record["per_concept"].items():
        theirs = {case["case"]["name"]: case for case in floor["per_concept"][name]["cases"]}
        shared = [case for case in part["cases"] if case["case"]["name"] in theirs]
        if not shared:
            raise OutOfTimeError(f"no case of {name} was attacked on both; raise --budget.")
        own = torch.tensor([bool(case["success"]) for case in shared])
        gold = torch.tensor([bool(theirs[case["case"]["name"]]["success"]) for case in shared])
        excess = replace(mean(own.float() - gold.float(), least=-1, most=1), higher_is_better=False)
        told = {"excess": asdict(excess), "ASR_gold": asdict(as_risk(rate(gold)))}
        part = {**part, "scores": {**part["scores"], **told}}
        # a search that was cut short on gold alone would count as excess
        part["is_cut_by_budget"] |= floor["per_concept"][name]["is_cut_by_budget"]
        parts[name] = part
    means = {
        key: asdict(
            replace(
                mean_of_rates([Score(**part["scores"][key]) for part in parts.values()]),
                higher_is_better=False,
            )
        )
        for key in ("ASR_gold", "excess")
    }
    record = {
        **record, "per_concept": parts, "scores": {**record["scores"], **means},
        "stamp": {**record["stamp"], "gold": floor["gold"]},
    }  # fmt: skip
    if launched().is_main_process:
        write_json(run / "attacks" / f"{record['attack']}.json", record)
    launched().wait_for_everyone()
    return record
