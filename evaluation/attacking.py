"""`erasure attack`: try to bring an erased concept back, and say how often that works.

The processes of a launch attack a share of the cases each and meet in the attack's folder.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erasure.config import Value, resolve
from erasure.edit import Edit
from erasure.erasing import find_concepts
from erasure.errors import SettingError
from erasure.models.load import read_presets
from erasure.opening import open_run
from erasure.processes import launched, own_device, share
from erasure.storage import write_json
from evaluation.attack_notes import claim, is_finished, note, outcomes
from evaluation.attacks import Attack, attack_names, find_attack
from evaluation.attacks.relearn import Relearn
from evaluation.criteria import find_criterion
from evaluation.generate import Shot, draw
from evaluation.scene import Case, Found, Scene, cases_of, is_pocket, sampling_of
from evaluation.score import Score, mean_of_rates, rate

CHUNK = 16  # cases attacked between two notes of what was reached


@dataclass(frozen=True)
class Outcome:
    """One case's end: shown without an attack, by the attack, by random tokens instead.

    `control` is one prompt with random tokens, `control_tries` as many as the attack drew.
    """

    case: Case
    pre: bool
    found: Found | None
    control: bool
    control_tries: bool

    @property
    def success(self) -> bool:
        return self.pre or (self.found is not None and self.found.success)


def attack(
    run: Path, name: str, *, concepts: Sequence[str] | None = None, criterion: str = "judge",
    prompts: int = 16, seeds: Sequence[int] = (188, 288), budget: float | None = None,
    seed: int = 0, quick: bool = False, **settings: Value,
) -> dict[str, Any]:  # fmt: skip
    """Attack a run's model and write attacks/NAME.json, with the images under attacks/NAME/.

    `budget` bounds the seconds of each concept; cases it leaves untried are not counted. The same
    call again resumes, or returns what is there. RunError for an erase that is not finished and for
    a folder that holds another attack, SettingError for settings that do not fit.
    """
    kind, edit = find_attack(name), Edit.load(run)
    word = name.replace("_", "-")
    model = open_run(run, device=own_device())
    found = find_concepts(model, concepts) if concepts else edit.concepts
    chosen, sources = resolve(
        kind, given=settings, quick=quick, presets=read_presets(model.folder, word)
    )
    asked = {
        "settings": asdict(chosen),  # type: ignore[call-overload]
        "criterion": criterion,
        "concepts": [concept.name for concept in found],
        "prompts": prompts,
        "seeds": list(seeds),
        "seed": seed,
        "budget": budget,
    }
    file = run / "attacks" / f"{word}.json"
    if is_finished(file, asked):
        return json.loads(file.read_text())
    if prompts < 1 or not seeds:
        raise SettingError(f"prompts must be at least 1, with one seed or more; got {prompts}.")
    scenes = []
    for concept in found:
        scene = Scene(
            model, concept, find_criterion(criterion, model, concept),
            run / "attacks" / word / concept.name.replace(" ", "_"),
            sampling=sampling_of(model, edit.sampling), seed=seed, budget=budget,
        )  # fmt: skip
        scenes.append((scene, cases_of(model, concept, prompts=prompts, seeds=seeds)))
        _check_room(chosen, *scenes[-1])
    claim(run / "attacks" / word / "attack.json", asked)
    started = time.monotonic()
    parts = {scene.concept.name: _attack_one(chosen, scene, cases, run) for scene, cases in scenes}
    record = {
        "attack": word,
        "protocol": f"attack-{word}",
        "scores": _over_concepts([part["scores"] for part in parts.values()]),
        "baseline": _over_concepts([part["baseline"] for part in parts.values()]),
        "per_concept": parts,
        "seconds": round(time.monotonic() - started, 1),
        "sources": sources,
        "quick": quick,
        "asked": asked,
        "stamp": _stamp(scenes[0][0], asked),
    }
    if launched().is_main_process:
        write_json(file, record)
    launched().wait_for_everyone()
    return json.loads(file.read_text())


def attack_all(run: Path, **options: Any) -> dict[str, Any]:
    """Every attack in turn, and attacks/all.json with the worst case of each prompt and seed.

    Relearning changes weights, so it stands beside the worst case and does not count in it.
    """
    records = {name: attack(run, name, **options) for name in attack_names()}
    worst: dict[tuple[str, str], dict[str, Any]] = {}
    for name, record in records.items():
        for concept, part in record["per_concept"].items() if name != "relearn" else ():
            for entry in part["cases"]:
                key = concept, entry["case"]["name"]
                row = worst.setdefault(
                    key, {"concept": concept, **entry["case"], "pre": entry["pre"], "won_by": []}
                )
                if entry["success"] and not entry["pre"]:
                    row["won_by"].append(name)
    first = next(iter(records.values()))
    hits = torch.tensor([bool(row["pre"] or row["won_by"]) for row in worst.values()])
    pre = torch.tensor([bool(row["pre"]) for row in worst.values()])
    summary = {
        "attack": "all",
        "protocol": "attack-all",
        "scores": {"pre_ASR": asdict(_as_risk(rate(pre))), "ASR": asdict(_as_risk(rate(hits)))},
        "baseline": first["baseline"],
        "attacks": {name: record["scores"] for name, record in records.items()},
        "cases": list(worst.values()),
        "seconds": round(sum(record["seconds"] for record in records.values()), 1),
        "stamp": {**first["stamp"], "attack": "all", "settings": "each attack's own"},
    }
    if launched().is_main_process:
        write_json(run / "attacks" / "all.json", summary)
    return summary


def _attack_one(chosen: Attack, scene: Scene, cases: list[Case], run: Path) -> dict[str, Any]:
    scene.start_clock()
    ended = outcomes(scene.folder)  # read before all meet in drawing, and only then added to
    before, plain = _undisturbed(scene, cases, run)
    # relearning is one event for all cases
    size = len(cases) if isinstance(chosen, Relearn) else CHUNK
    left = [
        (case, pre)
        for case, pre in zip(cases, plain.tolist(), strict=True)
        if case.name not in ended
    ]
    for chunk in share([left[start : start + size] for start in range(0, len(left), size)]):
        if scene.is_over:
            break
        for outcome in attack_cases(chosen, scene, chunk):
            note(scene.folder, {**asdict(outcome), "success": outcome.success})
    launched().wait_for_everyone()
    ended = outcomes(scene.folder)
    entries = [ended[case.name] for case in cases if case.name in ended]
    if not entries:
        raise SettingError("budget must leave time for at least one case; nothing was attacked.")
    part = {
        "scores": _scores(entries, has_control=not isinstance(chosen, Relearn)),
        "baseline": {"pre_ASR": asdict(_as_risk(rate(before)))},
        "is_cut_by_budget": len(entries) < len(cases) or scene.is_over,
        "criterion": scene.criterion.name,
        "cases": entries,
    }
    if isinstance(chosen, Relearn):
        part["steps"] = max(entry["found"]["tries"] for entry in entries if entry["found"])
        if launched().is_main_process:
            part["random_steps"] = chosen.random_steps(scene, cases)
    return part


def attack_cases(chosen: Attack, scene: Scene, chunk: Sequence[tuple[Case, bool]]) -> list[Outcome]:
    """Attack the cases that are not shown anyway, then as many random tries as each took."""
    hard = [case for case, pre in chunk if not pre]
    if isinstance(chosen, Relearn):
        hard = [case for case, _ in chunk]
    found = dict(zip(hard, chosen.attack(scene, hard), strict=True)) if hard else {}
    first, any_try = _random_tries(chosen, scene, found)
    return [
        Outcome(
            case,
            pre,
            found.get(case),
            control=pre or first.get(case, False),
            control_tries=pre or any_try.get(case, False),
        )
        for case, pre in chunk
    ]


def _random_tries(
    chosen: Attack, scene: Scene, found: dict[Case, Found]
) -> tuple[dict[Case, bool], dict[Case, bool]]:
    """Whether random tokens of the attack's length win: (at once, in as many tries as it took)."""
    cases = list(found)
    places = {case: chosen.control(case.prompt, scene.concept) for case in cases}
    first, won = dict.fromkeys(cases, False), dict.fromkeys(cases, False)
    if not cases or places[cases[0]] is None:
        return first, won
    generator = scene.generator(f"control {cases[0].name}")
    for number in range(max(result.tries for result in found.values())):
        left = [case for case in cases if not won[case] and found[case].tries > number]
        if not left:
            break
        texts = [scene.random_prompt(*place, generator) for case in left if (place := places[case])]
        hits = scene.wins(texts, left, "control").tolist()
        won |= dict(zip(left, hits, strict=True))
        if number == 0:
            first = dict(won)
    return first, won


def _undisturbed(scene: Scene, cases: Sequence[Case], run: Path) -> tuple[Tensor, Tensor]:
    """What plain prompts show: (by the model from before the erasure, by the erased one)."""
    name = "pocket" if is_pocket(scene.model) else "plain"
    shots = [Shot(case.prompt, case.noise_seed, f"{case.name}.png") for case in cases]
    options = {"steps": scene.sampling.steps, "guidance": scene.sampling.guidance}
    after = draw(scene.model, shots, run / "images" / name, **options)
    with scene.model.without_edit():
        before = draw(scene.model, shots, run / "images" / f"{name}-base", **options)
    return scene.criterion(before), scene.criterion(after)


def _scores(entries: Sequence[dict[str, Any]], *, has_control: bool) -> dict[str, Any]:
    columns = {"pre_ASR": "pre", "ASR": "success"}
    if has_control:
        columns |= {"control_ASR": "control", "control_tries_ASR": "control_tries"}
    return {
        score: asdict(_as_risk(rate(torch.tensor([bool(entry[key]) for entry in entries]))))
        for score, key in columns.items()
    }


def _as_risk(score: Score) -> Score:
    return Score(score.value, score.stderr, score.n, higher_is_better=False)


def _over_concepts(parts: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Means over the concepts, each counting the same."""
    return {
        key: asdict(_as_risk(mean_of_rates([Score(**part[key]) for part in parts])))
        for key in parts[0]
    }


def _check_room(chosen: Attack, scene: Scene, cases: Sequence[Case]) -> None:
    """SettingError before anything is drawn, if a prompt leaves no room for the attack's tokens."""
    for case in cases:
        place = chosen.control(case.prompt, scene.concept)
        if place is not None:
            if place[1] < 1:
                raise SettingError(f"tokens must be at least 1; got {place[1]}.")
            scene.model.open_slots([place[0]], place[1])


def _stamp(scene: Scene, asked: dict[str, Any]) -> dict[str, Any]:
    return {
        **asked,
        **asdict(scene.sampling),
        "resolution": scene.model.resolution,
        "control": "random tokens of the same length and place; _tries: as often as the attack",
        "versions": {name: version(name) for name in ("torch", "diffusers", "erasure-toolkit")},
    }
