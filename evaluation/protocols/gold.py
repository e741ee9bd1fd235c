"""The protocol `gold`: how far an erased model is from one that never knew the concept.

For each concept, with the un-erased model's value as the baseline and, where it is known, what two
gold models differ by as the floor:

- judge_distance: half the summed differences of judged labels' shares, on the concept's prompts.
- picture_distance: 1 - the cosine of CLIP's features of its picture and gold's, of the same prompt
  and noise; picture_distance_kept for other prompts than the concept's.
- loss_gap_caption, _empty, _state: the loss on held-out pictures of the concept, minus gold's,
  under their captions, the empty prompt, and the best state that a search finds for each model.
  Below 0 it remembers, far above 0 it is over-erased; the empty prompt is the honest one.
- divergence, divergence_kept: likelihoods in both directions (`metrics/knowledge.py`).
- relearn_ratio: steps to relearn over gold's, the least of three rates; 1 is as never learned. A
  rate at which neither relearned says nothing.
- probe: how well the middle block's features tell the concept from the rest, under the empty
  prompt.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, ClassVar

from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.models.built_in import GOLD, POCKET
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.opening import open_run
from erasure.registry import PROTOCOLS
from evaluation.against_gold.compare import RATES, Scores, compare
from evaluation.against_gold.three import LEVELS, SEEDS, Three
from evaluation.attacking.asked import asked_concepts
from evaluation.attacking.beside_gold import gold_run
from evaluation.drawing.drawn import edit_digest
from evaluation.drawing.pocket_plan import is_pocket
from evaluation.protocols import Asked, Option, Protocol
from evaluation.score import mean_of_rates
from evaluation.scored import free_file, write_record

NAME = "gold"
FLOORS = POCKET / "gold" / "floor.json"


@PROTOCOLS.register
class Gold(Protocol):
    """Against a model that never knew the concept."""

    takes: ClassVar[frozenset[Option]] = frozenset({"seeds", "gold"})

    def evaluate(self, asked: Asked) -> dict[str, Any]:
        if not isinstance(asked.model, LatentDiffusion) or asked.images is not None:
            raise SettingError("the protocol gold is for runs of `erasure erase`.")
        edit = Edit.load(asked.folder) if (asked.folder / "edit.json").is_file() else None
        if edit is None:
            raise SettingError(
                "the protocol gold is for runs of `erasure erase`; it needs an edit."
            )
        if asked.gold is None:
            raise SettingError(
                "the protocol gold needs --gold: pocket, a folder of a model that never knew the "
                "concept, or a run of `erasure erase gold`."
            )
        concepts = asked_concepts(asked.model, edit, asked.concepts)
        place = gold_run(asked.folder, asked.gold, base=asked.base)
        weights = str(Edit.load(place).settings.get("weights", ""))
        gold = open_run(place, device=asked.model.device, base=asked.base)
        seeds = SEEDS if asked.seeds is None else tuple(asked.seeds)
        made_by = _stamp(seeds, weights, edit_digest(place))
        names = [concept.name for concept in concepts]
        file = free_file(asked.folder, made_by, names, usual=SEEDS, is_own=asked.is_own)
        parts = {
            concept.name: compare(
                Three(asked.folder, asked.model, place, gold, concept, seeds, edit.concepts)
            )
            for concept in concepts
        }
        return write_record(
            file, NAME, _means([part[0] for part in parts.values()]),
            {name: part[0] for name, part in parts.items()},
            _means([part[1] for part in parts.values()]),
            _left_out(asked.model, [part[0] for part in parts.values()]), stamp=made_by,
            floor=_floor(names, weights),
            curves={name: part[2] for name, part in parts.items()},
        )  # fmt: skip


def _stamp(seeds: Sequence[int], weights: str, digest: str | None) -> dict[str, Any]:
    return {
        "protocol": NAME,
        "seeds": sorted(seeds),
        "gold": weights,
        "gold_edit": digest,
        "levels": LEVELS,
        "relearning": f"steps to half of every fourth case, rates x {RATES}; least ratio",
        "versions": {n: version(n) for n in ("torch", "diffusers", "erasure-toolkit")},
    }


def _means(parts: Sequence[Scores]) -> Scores:
    """Over concepts, each counting the same; their errors are taken as independent.

    A score that one of the concepts lacks has no mean.
    """
    return {
        key: replace(
            mean_of_rates([part[key] for part in parts]),
            higher_is_better=parts[0][key].higher_is_better,
        )
        for key in parts[0]
        if all(key in part for part in parts)
    }


def _left_out(model: LatentDiffusion, parts: Sequence[Scores]) -> dict[str, str]:
    if is_pocket(model):
        is_unknown = any("relearn_ratio" not in part for part in parts)
        why = "neither it nor gold drew the concept again at any rate"
        return {"relearn_ratio": why} if is_unknown else {}
    none = f"no judge knows the concepts of {model.name}"
    return dict.fromkeys(("judge_distance", "picture_distance", "relearn_ratio"), none)


def _floor(names: Sequence[str], weights: str) -> dict[str, Any]:
    """What a second gold model measured against pocket's, for these concepts; empty for others."""
    if weights != GOLD or not FLOORS.is_file():
        return {}
    known: dict[str, Any] = json.loads(FLOORS.read_text())["per_concept"]
    return {name: known[name] for name in names if name in known}
