"""What lies near a concept, and is the first thing that an erasure breaks.

Near concepts suffer where far ones do not: Amara et al., "EraseBench" (2025), arXiv:2501.09833;
Moon et al., "Holistic Unlearning Benchmark" (2024), arXiv:2410.05664.
"""

from collections.abc import Sequence

from erasure.errors import SettingError
from erasure_datasets.concept import Concept, filled
from erasure_datasets.mentions import mentions
from erasure_datasets.prompt_files import built_in
from evaluation.metrics.clip_score import TextImageModel

COUNT = 5
NONE = "none"
LISTS = {
    "style": ("styles",), "person": ("people",), "unsafe": ("people",),
    "object": ("animals", "places", "objects"),
}  # fmt: skip


def neighbours(
    concepts: Sequence[Concept], given: str, clip: TextImageModel | None
) -> dict[str, list[str]]:
    """The names to ask for beside each concept, by its name; none of them names an erased one.

    `given` are names with commas, the same for all; "" for the COUNT nearest of the built-in lists
    of the concept's kind, as the CLIP's text tower sees them, or, without a CLIP, those that follow
    the concept in the list that holds it. SettingError for a given name that is erased.
    """
    if given.strip() == NONE:
        return {concept.name: [] for concept in concepts}
    names = list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    if names:
        gone = next((n for n in names if _is_one_of(n, concepts)), None)
        if gone is not None:
            raise SettingError(f"neighbours must stay; {gone!r} is, or names, an erased concept.")
        return {concept.name: names for concept in concepts}
    return {concept.name: _nearest(concept, concepts, clip) for concept in concepts}


def _nearest(
    concept: Concept, concepts: Sequence[Concept], clip: TextImageModel | None
) -> list[str]:
    lists = [built_in(name) for name in LISTS.get(concept.kind, LISTS["object"])]
    if clip is None:
        ordered = next((_following(names, concept.name) for names in lists
                        if concept.name.lower() in names), lists[-1])  # fmt: skip
    else:
        names = list(dict.fromkeys(name for part in lists for name in part))
        asked = [filled("a photo of {a name}", name) for name in (concept.name, *names)]
        seen = clip.embed_texts(asked)
        order = (seen[1:] @ seen[0]).argsort(descending=True, stable=True).tolist()
        ordered = [names[index] for index in order]
    return [name for name in ordered if not _is_one_of(name, concepts)][:COUNT]


def _following(names: Sequence[str], name: str) -> list[str]:
    place = names.index(name.lower())
    return [*names[place + 1 :], *names[:place]]


def _is_one_of(name: str, concepts: Sequence[Concept]) -> bool:
    return any(mentions(name, c.name) or mentions(c.name, name) for c in concepts)
