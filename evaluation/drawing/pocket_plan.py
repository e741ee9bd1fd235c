"""Which of the protocol `pocket`'s images are drawn and judged, and of what."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

from erasure.config import nearest
from erasure.errors import SettingError
from erasure.models.built_in import POCKET
from erasure.models.diffusion.model import DiffusionModel
from erasure_datasets.concept import Catalogue, Concept, UnknownConceptError
from evaluation.drawing.generate import Shot
from evaluation.metrics.accuracy import Target

NAME = "pocket"
SEEDS = (188, 288)
ALL_SEEDS = (188, 288, 588, 688, 888)
Key = tuple[int, int]  # (seed, prompt index)


@cache
def catalogue() -> Catalogue:
    return Catalogue.load(POCKET / "concepts.json")


def is_pocket(model: DiffusionModel) -> bool:
    """Whether the model draws the concepts of the pocket suite."""
    return model.catalogue is not None and model.catalogue.pairs() == catalogue().pairs()


def plan(seeds: Sequence[int], subset: int | None, concepts: Sequence[Concept]) -> list[Key]:
    """(seed, prompt index) of every image.

    A subset keeps all of the targets' images of the first seed and spreads the rest evenly over
    objects and styles, up to `subset` images. SettingError for a bad seed or subset.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        given = ", ".join(map(str, seeds)) or "none"
        raise SettingError(f"seeds must be given, and differ; got {given}.")
    for seed in seeds:
        if seed not in ALL_SEEDS:
            raise SettingError(f"seeds must be among {', '.join(map(str, ALL_SEEDS))}; got {seed}.")
    pairs = catalogue().pairs()
    if subset is None:
        return [(seed, index) for seed in seeds for index in range(len(pairs))]
    names = {concept.name for concept in concepts}
    asked = [index for index, pair in enumerate(pairs) if names & set(pair)]
    if not len(asked) < subset <= len(pairs):
        raise SettingError(f"subset must be in {len(asked) + 1} to {len(pairs)}; got {subset}.")
    count = len(catalogue().styles)
    others = [i for i in range(len(pairs)) if i not in set(asked)]
    spread = sorted(others, key=lambda i: ((i // count * 5 + i % count) % count * 7 % count, i))
    return [(seeds[0], index) for index in sorted(asked + spread[: subset - len(asked)])]


def shots(chosen: Sequence[Key]) -> list[Shot]:
    pairs = catalogue().pairs()
    made = []
    for seed, index in chosen:
        name, style = pairs[index]
        file = f"{style}_{name}_seed{seed}.png".replace(" ", "_")
        made.append(Shot(catalogue().prompt(name, style), seed * 1000 + index, file))
    return made


def without(chosen: Iterable[Key], concepts: Sequence[Concept]) -> list[Key]:
    """Those whose prompt names none of the concepts."""
    names = {concept.name for concept in concepts}
    return [key for key in chosen if not names & set(catalogue().pairs()[key[1]])]


def find_targets(names: Sequence[str]) -> list[Concept]:
    """The suite's concepts by name; SettingError for an unknown one, or one that is given twice."""
    try:
        found = [catalogue().concept(name) for name in names]
    except UnknownConceptError as error:
        raise SettingError(f"{NAME}: {error}") from error
    if len({concept.name for concept in found}) < len(found):
        raise SettingError(f"concept names must differ; got {', '.join(names)}.")
    return found


def trained_on(
    targets: Sequence[Concept], erased: Sequence[Concept], contexts: str
) -> list[Concept]:
    """The targets with the prompts that they were erased by alone.

    Those are the prompts that hold one of the `contexts`, names with commas, or else what a run
    `erased` says of itself. SettingError for a name that is not the suite's or does not go with a
    target, and without a target.
    """
    if contexts and not targets:
        raise SettingError(f"contexts are an erased concept's; there is none. Got {contexts!r}.")
    known = {concept.name: concept for concept in erased}
    if not contexts:
        return [
            replace(target, templates=known.get(target.name, target).templates)
            for target in targets
        ]
    names = [name.strip() for name in contexts.split(",")]
    try:
        return [catalogue().within(target, names) for target in targets]
    except UnknownConceptError as error:
        raise SettingError(f"contexts: {error}") from error


def targets_of(concepts: Sequence[Concept]) -> list[Target]:
    """What is scored of the concepts; SettingError if one is not the protocol's."""
    targets = []
    for concept in concepts:
        is_style = concept.name in catalogue().styles
        domain = catalogue().styles if is_style else catalogue().objects
        if concept.name not in domain:
            raise SettingError(
                f"the protocol {NAME} cannot judge {concept.name!r}. "
                f"{nearest(concept.name, catalogue().targets())}"
            )
        others, beside = catalogue().others(concept), _some(concept)
        contexts = tuple(map(others.index, beside)) if beside else None
        targets.append(Target(concept.name, is_style, domain.index(concept.name), contexts))
    return targets


def told_of(concepts: Sequence[Concept]) -> dict[str, object]:
    """What a stamp says of concepts that were erased by some of their prompts alone."""
    beside = dict.fromkeys(name for concept in concepts for name in _some(concept))
    return {"contexts": ", ".join(beside)} if beside else {}


def _some(concept: Concept) -> tuple[str, ...]:
    """The names beside which a concept's prompts name it; empty if these are all there are."""
    beside = catalogue().contexts(concept)
    return beside if len(beside) < len(catalogue().others(concept)) else ()
