"""What is compared between an edited model, the un-erased one and gold."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from erasure.config import resolve
from erasure.files.records import read_record
from erasure.files.storage import write_json
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.load import read_presets
from erasure.training.processes import launched
from evaluation.against_gold.three import SEEDS, Pictures, Three, has
from evaluation.attacking.tuning import shuffled
from evaluation.attacks.relearn import Relearn
from evaluation.attacks.state_inversion import StateInversion
from evaluation.drawing.drawn import edit_digest
from evaluation.drawing.pocket_plan import is_pocket, plan
from evaluation.metrics.knowledge import (
    divergence,
    gap,
    judge_distance,
    middle_features,
    ratio,
)
from evaluation.metrics.linear_probe import probe
from evaluation.protocols import pocket
from evaluation.score import Score, mean

SEARCHED = 100  # steps of a state's search
RATES = (0.2, 0.5, 1.0)  # times the relearning preset's
Scores = dict[str, Score]


def compare(three: Three) -> tuple[Scores, Scores, dict[str, Any]]:
    """(the edited model's scores, the un-erased one's, curves) for one concept."""
    three.refuse_knowing()
    found: dict[str, Scores] = {who: {} for who in ("edited", "original")}
    more: dict[str, Any] = {}
    _compare_pictures(three, found)
    _compare_losses(three, found, more)
    _compare_features(three, found, more)
    _compare_relearning(three, found, more)
    return found["edited"], found["original"], more


def _compare_pictures(three: Three, found: dict[str, Scores]) -> None:
    """Judged labels and features of what each draws; and likelihoods of each other's pictures."""
    kept = three.kept_cases()
    for ending, cases in (("", three.cases), ("_kept", kept)):
        golds = three.drawn("gold", cases, three.folder_name)
        gold_on_gold = three.losses("gold", golds)
        for who, scores in found.items():
            own = three.drawn(who, cases, three.folder_name)
            scores[f"divergence{ending}"] = divergence(
                (three.losses(who, own), three.losses("gold", own)),
                (three.losses(who, golds), gold_on_gold),
            )
            if is_pocket(three.edited):
                scores[f"picture_distance{ending}"] = _apart(own, golds)
                if not ending:
                    scores["judge_distance"] = _judged(three, own, golds)


def _apart(own: Pictures, golds: Pictures) -> Score:
    clip = pocket.shared_clip()
    one, other = (clip.embed_images(part.images).double().cpu() for part in (own, golds))
    return replace(mean(1 - (one * other).sum(1), least=0, most=2), higher_is_better=False)


def _judged(three: Three, own: Pictures, golds: Pictures) -> Score:
    judge = pocket.shared_judge("style-judge" if three.is_style else "vit")
    seen = [judge.predict(judge.cut(part.images)).argmax(1).cpu() for part in (own, golds)]
    return judge_distance(seen[0], seen[1], len(judge.labels))


def _compare_losses(three: Three, found: dict[str, Scores], more: dict[str, Any]) -> None:
    """On held-out pictures of the concept, under captions, the empty prompt and a found state."""
    pictures = three.held_out()
    states = {who: _state(three, who) for who in (*found, "gold")}
    for asked in ("caption", "empty", "state"):
        prompts = None if asked == "caption" else [""] * len(pictures.prompts)
        curves = {
            who: three.losses(
                who, pictures, prompts=prompts, state=states[who] if asked == "state" else None
            )
            for who in (*found, "gold")
        }
        for who, scores in found.items():
            scores[f"loss_gap_{asked}"] = gap(curves[who], curves["gold"])
        more[f"loss_{asked}"] = {
            who: [round(value, 6) for value in curve.mean(0).tolist()]
            for who, curve in curves.items()
        }


def _state(three: Three, who: str) -> Tensor:
    """The state that a short search ends in."""
    presets = read_presets(three.edited.folder, "state-inversion")
    chosen, _ = resolve(StateInversion, given={}, quick=False, presets=presets)
    short = replace(chosen, steps=min(chosen.steps, SEARCHED))
    scene = three.scene("gold" if who == "gold" else "edited")
    with three.edited.without_edit() if who == "original" else nullcontext():
        return short.search(scene, 0)


def _compare_features(three: Three, found: dict[str, Scores], more: dict[str, Any]) -> None:
    """Linear probes on the middle block, of each model and of one with shuffled weights."""
    if is_pocket(three.edited):
        keys = plan(SEEDS, None, [])
        rest = [key for key in keys if not has(key, three.concept)][:: 480 // 96]
        own = [key for key in plan((*SEEDS, 588), None, []) if has(key, three.concept)]
        images = pocket.renders([*own, *rest])
        labels = torch.tensor([1] * len(own) + [0] * len(rest))
    else:
        own_drawn = three.drawn("original", three.cases, three.folder_name)
        rest_drawn = three.drawn("original", three.kept_cases(), three.folder_name)
        images = torch.cat([own_drawn.images, rest_drawn.images])
        labels = torch.tensor([1] * len(own_drawn.images) + [0] * len(rest_drawn.images))
    with torch.no_grad():
        z0 = three.edited.to_latents(images).float()

    def told(model: LatentDiffusion) -> Score:
        return probe(middle_features(model, z0), labels)

    found["edited"]["probe"] = told(three.edited)
    with three.edited.without_edit():
        found["original"]["probe"] = told(three.edited)
    more["probe_gold"] = told(three.gold).value
    backbone = dict(three.gold.backbone.named_parameters())
    with shuffled(backbone, torch.Generator().manual_seed(0)):
        more["probe_random"] = told(three.gold).value


def _compare_relearning(three: Three, found: dict[str, Scores], more: dict[str, Any]) -> None:
    """Steps to half of every fourth case, at three rates, each from a few pictures."""
    if three.criterion is None:
        return
    presets = read_presets(three.edited.folder, "relearn")
    chosen, _ = resolve(Relearn, given={}, quick=False, presets=presets)
    short = replace(chosen, steps=60, every=5)
    counts = {who: steps_to_relearn(three, who, short) for who in ("edited", "gold")}
    compared = ratio(counts["edited"], counts["gold"], short.steps)
    if compared is not None:
        found["edited"]["relearn_ratio"] = compared
    more["relearn_steps"] = {"rates": [r * short.learning_rate for r in RATES], **counts}


def steps_to_relearn(
    three: Three, who: str, short: Relearn, rates: Sequence[float] = RATES
) -> list[int | None]:
    """For each rate the steps taken, None where the concept did not come back; kept on disk.

    `rates` are times `short`'s.
    """
    scene = three.scene(who)
    file = scene.folder / f"{three.concept.name.casefold().replace(' ', '-')}.json"
    cases = three.cases[::4]
    key = {
        "settings": repr((short, rates)), "edit": edit_digest(scene.folder.parents[1]),
        "sampling": repr(three.sampling), "cases": [case.name for case in cases],
    }  # fmt: skip
    known = read_record(file, dict[str, Any]) if file.is_file() else {}
    counts: list[int | None] = known.get("steps", []) if known.get("of") == key else []
    for factor in rates[len(counts) :]:
        tried = replace(short, learning_rate=factor * short.learning_rate)
        ended = tried.attack(scene, cases)
        is_back = 2 * sum(one.success for one in ended) >= len(ended)
        counts = [*counts, ended[0].tries if is_back else None]
        if launched().is_main_process:
            write_json(file, {"of": key, "steps": counts})
    return counts
