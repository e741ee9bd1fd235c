"""Pictures by which the names that earlier requests took go on drawing what they draw instead."""

from collections.abc import Sequence, Set
from dataclasses import replace

import torch

from erasure.methods.shared.aligned_prompts import anchored_pairs
from erasure.methods.shared.training_data import (
    Pictures,
    Plan,
    draw_pictures,
    gather_anchors,
    prompts_with_pictures,
)
from erasure.models.diffusion.model import DiffusionModel
from erasure.training.run import Run
from erasure_datasets.concept import Concept, mentions

TAKEN_PART = 20  # of as many pictures as are kept, for each concept that was taken before


def with_taken(
    model: DiffusionModel, concepts: list[Concept], retain: Pictures, plan: Plan, run: Run
) -> Pictures:
    """Pictures to keep, and those of what the concepts that were taken before draw instead.

    So their names go on drawing that. They are a twentieth of the `retain_count` for each; none is
    asked by a prompt that names what is to be erased as well.
    """
    held = _held(model.taken, {concept.name for concept in concepts})
    if not held:
        return retain
    each, found = max(1, plan.retain_count // TAKEN_PART), [retain]
    shown_pairs = prompts_with_pictures(model, plan)
    known = [concept for concept in held if shown_pairs & set(concept.prompts())]
    drawn = [concept for concept in held if concept not in known]
    if known:
        found.append(
            gather_anchors(model, known, replace(plan, forget_count=each * len(known)), run)
        )
    if drawn:
        own, count = replace(plan, shows_anchor=True), each * len(drawn)
        found.append(
            draw_pictures("hold", anchored_pairs(drawn), count, model, own, run, of="retain_images")
        )
    return Pictures(
        torch.cat([pictures.latents for pictures in found]),
        [text for pictures in found for text in pictures.prompts],
        [text for pictures in found for text in pictures.anchors],
    )


def _held(taken: Sequence[Concept], new: Set[str]) -> list[Concept]:
    """Those whose anchors stay, with the templates that name nothing of `new`."""
    gone, found = new | {concept.name for concept in taken}, []
    for concept in taken:
        own = [
            template
            for template, prompt in zip(concept.templates, concept.prompts(), strict=True)
            if not any(mentions(prompt, name) for name in new)
        ]
        # methods that push away from a name do not draw its anchor, which may go then
        is_lost = any(mentions(concept.anchor, name) for name in gone)
        if own and concept.anchor and not is_lost:
            found.append(replace(concept, templates=tuple(own)))
    return found
