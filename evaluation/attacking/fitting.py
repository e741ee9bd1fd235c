"""Whether an attack can be put to a model and to the prompts that it is asked to win."""

from collections.abc import Sequence
from pathlib import Path

from erasure.errors import SettingError
from erasure.models.diffusion.model import DiffusionModel
from erasure.models.diffusion.one_step import OneStep
from erasure.registry import name_of
from erasure_datasets.concept import Concept
from evaluation.attacking.attack import Attack
from evaluation.attacking.scene import Case

AskedCases = list[tuple[Concept, list[Case]]]


def refuse_unfit(chosen: Attack, run: Path, model: DiffusionModel, cases: AskedCases) -> None:
    """SettingError before anything is drawn: for a model of one step, if the attack walks a path.

    Also if a prompt has no place, or no room, for the attack's tokens.
    """
    name = name_of(type(chosen))
    if chosen.walks_path and isinstance(model, OneStep):
        raise SettingError(f"{name} needs a model that draws in several steps; {run} has one step.")
    for concept, own in cases:
        _refuse_prompts(chosen, name, model, concept, own)


def _refuse_prompts(
    chosen: Attack, name: str, model: DiffusionModel, concept: Concept, cases: Sequence[Case]
) -> None:
    for case in cases:
        try:
            place = chosen.control(case.prompt, concept)
        except ValueError as error:
            raise SettingError(
                f"{name} puts its tokens where a prompt names the concept: {error}"
            ) from error
        if place is not None:
            if place[1] < 1:
                raise SettingError(f"tokens must be at least 1; got {place[1]}.")
            if chosen.fills_slots or not model.slots_refusal:
                model.open_slots([place[0]], place[1])
