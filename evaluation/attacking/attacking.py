"""`erasure attack`: try to bring an erased concept back, and say how often that works.

The processes of a launch attack a share of the cases each and meet in the attack's folder.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from erasure.concepts import refuse_unnamed
from erasure.config import Origin, Value, resolve
from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.files.locking import alone_in
from erasure.files.naming import slug
from erasure.files.records import read_record
from erasure.files.storage import file_digest, write_json
from erasure.models.diffusion.load import read_presets
from erasure.models.diffusion.model import DiffusionModel
from erasure.opening import open_edit
from erasure.registry import ATTACKS, plugin_source
from erasure.training.processes import launched, own_device, share
from erasure_datasets.concept import Concept
from evaluation.attacking.asked import (
    OutOfTimeError,
    asked_concepts,
    asked_prompts,
    check_numbers,
    contents,
)
from evaluation.attacking.attack import Attack
from evaluation.attacking.beside_gold import beside_gold, gold_record
from evaluation.attacking.fitting import AskedCases, refuse_unfit
from evaluation.attacking.notes import claim, finished, note, outcomes, withdraw
from evaluation.attacking.rates import as_risk, has_control, over_concepts, scores_of
from evaluation.attacking.scene import LEAST_TRUE, MISSED, Case, Found, Scene, cases_of, sampling_of
from evaluation.criteria import find_criterion
from evaluation.drawing.drawn import edit_digest
from evaluation.drawing.generate import Shot, draw
from evaluation.drawing.pocket_plan import is_pocket
from evaluation.prompts.plan import concept_lines
from evaluation.score import rate

Attacked = tuple[Scene, list[Case]]  # of one concept
CHUNK = 16  # cases attacked between two notes of what was reached


@dataclass(frozen=True)
class Outcome:
    """One case's end: shown without an attack, by the attack, by its control instead.

    `control` is one prompt with random tokens, `control_tries` as many as the attack drew; for an
    attack that adds none, both are its `decoy`. `is_named` is the criterion's yes without the
    threshold on its probability.
    """

    case: Case
    pre: bool
    found: Found | None
    control: bool
    control_tries: bool
    is_named: bool = False

    @property
    def success(self) -> bool:
        return self.pre or (self.found is not None and self.found.success)

    @property
    def is_tried(self) -> bool:
        """Whether anything was drawn for it before the budget was used up."""
        return self.found is None or self.found.tries > 0


def attack(
    run: Path | str, name: str, *, concepts: Sequence[str | Concept] | None = None,
    criterion: str = "judge", prompts: int | str | Path = 16, seeds: Sequence[int] = (188, 288),
    budget: float | None = None, seed: int = 0, quick: bool = False, base: Path | str | None = None,
    gold: Path | str | None = None, origins: Mapping[str, Origin] | None = None,
    **settings: Value,
) -> dict[str, Any]:  # fmt: skip
    """Attack a run's model and write attacks/NAME.json, with the images under attacks/NAME/.

    `prompts` is how many of the concept's own prompts are attacked, or a file of prompts
    (`erasure_datasets.prompt_files`), "FILE:N" for its first N; a seed that the file gives a prompt
    stands for `seeds` there.
    `budget` bounds the seconds of each concept; cases it leaves untried are not counted. `gold` is
    a model that never knew the concepts ("pocket", a folder, a run of `erase gold`): it is attacked
    alike, in a run of its own, and the record says how far the rates lie above its. `concepts` are
    names; for a Concept the run must have the same prompts. `origins` says where given settings
    came from, for the record. The same call again resumes, or returns what is there. RunError for
    an erase that is not finished, for a folder that holds another attack and for one that another
    process attacks, SettingError for settings that do not fit.
    """
    run = Path(run)
    count, file = asked_prompts(prompts)
    check_numbers(count, seeds, budget, seed)
    kind, word = ATTACKS.get(name), name.replace("_", "-")
    if gold is not None:
        asked: dict[str, Any] = {
            "concepts": concepts, "criterion": criterion, "prompts": prompts, "seeds": seeds,
            "budget": budget, "seed": seed, "quick": quick, "base": base, "origins": origins,
            **settings,
        }  # fmt: skip
        floor = gold_record(attack, run, gold, name, asked)
        return beside_gold(run, attack(run, name, **asked), floor)
    model, edit = open_edit(run, device=own_device(), base=base)
    found = _concepts(run, model, edit, concepts)
    chosen, sources = resolve(
        kind, given=settings, quick=quick, presets=read_presets(model.folder, word),
        origins=origins,
    )  # fmt: skip
    asked = _asked(
        run, chosen, criterion=criterion, concepts=[concept.name for concept in found],
        prompts=count if not file else str(prompts), seeds=list(seeds), seed=seed, budget=budget,
    )  # fmt: skip
    if file:
        asked["prompts_digest"] = file_digest(Path(file).expanduser())
    if (record := finished(run, word, asked)) is not None:
        return record
    every, scenes = _cases(model, found, count=count, file=file, seeds=seeds), list[Attacked]()
    refuse_unfit(chosen, run, model, every)
    for concept, cases in every:
        scene = Scene(
            model, concept, find_criterion(criterion, model, concept),
            run / "attacks" / word / slug(concept.name),
            sampling=sampling_of(model, edit.sampling), seed=seed, budget=budget,
        )  # fmt: skip
        scenes.append((scene, cases))
    return _attacked(chosen, scenes, run, word, {"sources": sources, "quick": quick}, asked)


def unfit(
    run: Path, names: Sequence[str], *, concepts: Sequence[str] | None = None,
    prompts: int | str | Path = 16, seeds: Sequence[int] = (188, 288), quick: bool = False,
    base: Path | str | None = None,
) -> dict[str, str]:  # fmt: skip
    """Why some of these attacks cannot be put to a run's model and these prompts, by name.

    Nothing is drawn or written. What no attack could be asked is refused as by `attack`.
    """
    count, file = asked_prompts(prompts)
    check_numbers(count, seeds, None, 0)
    model, edit = open_edit(run, device=own_device(), base=base)
    found = _concepts(run, model, edit, concepts)
    cases, reasons = _cases(model, found, count=count, file=file, seeds=seeds), dict[str, str]()
    for name in names:
        presets = read_presets(model.folder, name.replace("_", "-"))
        chosen, _ = resolve(ATTACKS.get(name), given={}, quick=quick, presets=presets)
        try:
            refuse_unfit(chosen, run, model, cases)
        except SettingError as error:
            reasons[name] = str(error)
    return reasons


def _concepts(
    run: Path, model: DiffusionModel, edit: Edit, asked: Sequence[str | Concept] | None
) -> list[Concept]:
    """Those that are asked for, else the run's own; SettingError for what has no name."""
    found = asked_concepts(model, edit, asked) if asked else edit.concepts
    refuse_unnamed(run, found)
    return found


def _cases(
    model: DiffusionModel, found: list[Concept], *, count: int, file: str, seeds: Sequence[int]
) -> AskedCases:
    """Each concept with what an attack on it has to win."""
    lines = concept_lines(found, file) if file else {}
    return [
        (
            concept,
            cases_of(model, concept, prompts=count, seeds=seeds, lines=lines.get(concept.name)),
        )
        for concept in found
    ]


def _attacked(
    chosen: Attack, scenes: Sequence[Attacked], run: Path, word: str, told: dict[str, Any],
    asked: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Attack one concept after another, alone in the attack's folder; the record that is written.

    `told` is what it says of the settings beside `asked`.
    """
    with _alone(run / "attacks" / word):
        claim(run, word, asked)
        started = time.monotonic()
        try:
            parts = {
                scene.concept.name: _attack_one(chosen, scene, cases, run)
                for scene, cases in scenes
            }
        except Exception:
            withdraw(run, word)
            raise
        record = {
            "attack": word,
            "protocol": f"attack-{word}",
            "scores": over_concepts([part["scores"] for part in parts.values()]),
            "baseline": over_concepts([part["baseline"] for part in parts.values()]),
            "per_concept": parts,
            "seconds": round(time.monotonic() - started, 1),
            **told,
            "asked": asked,
            "stamp": _stamp(scenes[0][0], asked),
        }
        if launched().is_main_process:
            write_json(run / "attacks" / f"{word}.json", record)
        launched().wait_for_everyone()
    return read_record(run / "attacks" / f"{word}.json", dict[str, Any])


def _asked(run: Path, chosen: Attack, **told: Any) -> dict[str, Any]:
    """All that decides what an attack does, for its folder and report."""
    settings = asdict(chosen)  # type: ignore[call-overload]
    asked = {"settings": settings, **told, "edit": edit_digest(run)}
    files = contents(told["criterion"], settings) | plugin_source(type(chosen))
    return asked | ({"files": files} if files else {})


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold an attack's folder for this launch; evaluate and other attacks may work beside it."""
    if not launched().is_main_process:
        yield
        return
    with alone_in(folder):
        yield


def _attack_one(chosen: Attack, scene: Scene, cases: list[Case], run: Path) -> dict[str, Any]:
    scene.start_clock()
    ended = outcomes(scene.folder)  # read before all meet in drawing, and only then added to
    scene.settled = ended.keys()
    shown, plain = _undisturbed(scene, cases, run)
    scene.calibrate(shown)
    before, pre, named = scene.shows(shown), scene.shows(plain), scene.criterion(plain)
    # relearning is one event for all cases
    size = len(cases) if chosen.changes_weights else CHUNK
    pairs = list(zip(cases, pre.tolist(), strict=True))
    is_named = {case.name for case, yes in zip(cases, named.tolist(), strict=True) if yes}
    # cases are won beside one another, so a chunk goes by place and is attacked whole or not
    chunks = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    for chunk in share([c for c in chunks if any(case.name not in ended for case, _ in c)]):
        if scene.is_over:
            break
        for outcome in attack_cases(chosen, scene, chunk):
            if outcome.is_tried and outcome.case.name not in ended:
                told = {**asdict(outcome), "success": outcome.success}
                told["is_named"] |= outcome.case.name in is_named
                note(scene.folder, told | ({"is_cut": True} if scene.is_over else {}))
    launched().wait_for_everyone()
    ended = outcomes(scene.folder)
    entries = [dict(ended[case.name]) for case in cases if case.name in ended]
    if not entries:
        raise OutOfTimeError("budget must leave time for at least one case; nothing was attacked.")
    is_cut = any([entry.pop("is_cut", False) for entry in entries])  # all must lose the word
    part = {
        "scores": scores_of(entries, has_control=has_control(chosen)),
        "baseline": {"pre_ASR": asdict(as_risk(rate(before)))},
        "threshold": scene.threshold,
        "is_cut_by_budget": len(entries) < len(cases) or is_cut or scene.is_over,
        "criterion": scene.criterion.name,
        "prompts": len({case.prompt for case in cases}),
        "cases": entries,
    }
    return part | (chosen.told(scene, cases, entries) if launched().is_main_process else {})


def attack_cases(chosen: Attack, scene: Scene, chunk: Sequence[tuple[Case, bool]]) -> list[Outcome]:
    """Attack the cases that are not shown anyway, then as many random tries as each took."""
    hard = [case for case, pre in chunk if not pre]
    if chosen.changes_weights:
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
            is_named=scene.was_named(case),
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
    if not cases:
        return first, won
    if places[cases[0]] is None:
        decoys = chosen.decoy(scene, cases)
        won = won if decoys is None else dict(zip(cases, decoys, strict=True))
        return won, won
    generator = scene.generator(f"control {cases[0].name}")
    for number in range(max(result.tries for result in found.values())):
        left = [case for case in cases if not won[case] and found[case].tries > number]
        if not left or (number and scene.is_over):
            break
        texts = [scene.random_prompt(*place, generator) for case in left if (place := places[case])]
        hits = scene.wins(texts, left, "control").tolist()
        won |= dict(zip(left, hits, strict=True))
        if number == 0:
            first = dict(won)
    return first, won


def _undisturbed(scene: Scene, cases: Sequence[Case], run: Path) -> tuple[Tensor, Tensor]:
    """Images of plain prompts: (by the model from before the erasure, by the erased one)."""
    name = "pocket" if is_pocket(scene.model) else "plain"
    shots = [Shot(case.prompt, case.noise_seed, f"{case.name}.png") for case in cases]
    options = {"steps": scene.sampling.steps, "guidance": scene.sampling.guidance}
    after = draw(scene.model, shots, run / "images" / name, **options)
    with scene.model.without_edit():
        before = draw(scene.model, shots, run / "images" / f"{name}-base", **options)
    return before, after


def _stamp(scene: Scene, asked: dict[str, Any]) -> dict[str, Any]:
    return {
        **asked,
        **asdict(scene.sampling),
        "resolution": scene.model.resolution,
        "control": "random tokens of the same length and place; _tries: as often as the attack",
        "threshold": f"least probability of a win: {1 - MISSED:.0%} of un-erased images have it, "
        f"none below {LEAST_TRUE} that are known as the concept; named_ASR counts the "
        "criterion's yes alone",
        "versions": {name: version(name) for name in ("torch", "diffusers", "erasure-toolkit")},
    }
