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
- relearn_ratio: steps to relearn over gold's, the least of three rates; 1 is as never learned.
- probe: how well the middle block's features tell the concept from the rest, under the empty
  prompt.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from erasure.config import resolve
from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.files.records import read_record
from erasure.files.storage import write_json
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.load import GOLD, POCKET, read_presets
from erasure.opening import open_run
from erasure.registry import PROTOCOLS
from erasure.training.processes import launched
from erasure_datasets.concept import Concept, common_names
from evaluation.attacking.asked import asked_concepts
from evaluation.attacking.beside_gold import KNOWS, gold_run
from evaluation.attacking.scene import Case, Scene, cases_of, sampling_of
from evaluation.attacks.relearn import Relearn
from evaluation.attacks.state_inversion import StateInversion
from evaluation.criteria import find_criterion
from evaluation.drawing.drawn import edit_digest
from evaluation.drawing.generate import Shot, draw
from evaluation.drawing.pocket_plan import is_pocket, plan, shots
from evaluation.metrics.knowledge import (
    divergence,
    gap,
    judge_distance,
    losses,
    middle_features,
    probe,
    ratio,
)
from evaluation.protocols import Asked, Option, Protocol, pocket
from evaluation.score import Score, mean, mean_of_rates
from evaluation.scored import free_file, write_record

NAME = "gold"
SEEDS = (188, 288)
LEVELS = 20
SEARCHED = 100  # steps of a state's search
KEPT = 32  # pictures of other things
RATES = (0.2, 0.5, 1.0)  # times the relearning preset's
FLOORS = POCKET / "gold" / "floor.json"
Who = tuple[str, LatentDiffusion, bool]  # name, model, whether its original is asked
Scores = dict[str, Score]


@dataclass(frozen=True)
class Pictures:
    """Images in [0, 255] under their prompts."""

    images: UInt8[Tensor, "n 3 h w"]
    prompts: Sequence[str]


class Three:
    """The edited model, gold, and the un-erased one, asked the same things about one concept."""

    def __init__(
        self, run: Path, edited: LatentDiffusion, place: Path, gold: LatentDiffusion,
        concept: Concept, seeds: Sequence[int],
    ) -> None:  # fmt: skip
        self.run, self.edited, self.place, self.gold = run, edited, place, gold
        self.concept = concept
        self.sampling = sampling_of(edited, None)
        self.cases = cases_of(edited, concept, prompts=16, seeds=seeds)
        self.criterion = find_criterion("judge", edited, concept) if is_pocket(edited) else None
        self.is_style = concept.kind == "style"

    def drawn(self, who: str, cases: Sequence[Case], name: str) -> Pictures:
        """What one of the three draws for these cases; kept in a run's images/NAME."""
        model, folder = (self.gold, self.place) if who == "gold" else (self.edited, self.run)
        model.use_scheduler(self.sampling.scheduler)
        context = model.without_edit() if who == "original" else nullcontext()
        place = folder / "images" / (f"{name}-base" if who == "original" else name)
        asked = [Shot(case.prompt, case.noise_seed, f"{case.name}.png") for case in cases]
        with context:
            found = draw(
                model, asked, place, steps=self.sampling.steps, guidance=self.sampling.guidance
            )
        return Pictures(found, [case.prompt for case in cases])

    def kept_cases(self) -> list[Case]:
        """Prompts without the concept, spread over what the model knows."""
        if is_pocket(self.edited):
            asked = plan(SEEDS[:1], 16 + KEPT, [self.concept])
            names = {case.name for case in self.cases}
            made = zip(asked, shots(asked), strict=True)
            found = [Case(s.prompt, k[0], s.noise_seed, Path(s.file).stem) for k, s in made]
            return [case for case in found if case.name not in names]
        own = [n for n in common_names("objects") if n.lower() != self.concept.name.lower()]
        return [
            Case(f"a photo of a {name}", SEEDS[0], SEEDS[0] * 1000 + i, f"kept{i}_seed{SEEDS[0]}")
            for i, name in enumerate(own[:KEPT])
        ]

    def losses(
        self, who: str, pictures: Pictures, *, prompts: Sequence[str] | None = None,
        state: Tensor | None = None,
    ) -> Float[Tensor, "n levels"]:  # fmt: skip
        """One model's losses on pictures, under their own prompts unless others or a state."""
        model = self.gold if who == "gold" else self.edited
        with torch.no_grad(), model.original() if who == "original" else nullcontext():
            z0 = model.to_latents(pictures.images).float()
            asked = pictures.prompts if prompts is None else prompts
            if state is not None:
                return losses(model, z0, state.expand(len(z0), -1, -1), levels=LEVELS)
            return losses(model, z0, model.encode(asked), levels=LEVELS)


def evaluate(
    run: Path, edited: LatentDiffusion, place: Path, gold: LatentDiffusion, concept: Concept,
    seeds: Sequence[int],
) -> tuple[Scores, Scores, dict[str, Any]]:  # fmt: skip
    """(the edited model's scores, the un-erased one's, curves) for one concept."""
    three = Three(run, edited, place, gold, concept, seeds)
    _refuse_knowing(three)
    whose = ("edited", "original")
    found: dict[str, Scores] = {who: {} for who in whose}
    more: dict[str, Any] = {}
    _compare_pictures(three, found)
    _compare_losses(three, found, more)
    _compare_features(three, found, more)
    _compare_relearning(three, found, more)
    return found["edited"], found["original"], more


def _refuse_knowing(three: Three) -> None:
    if three.criterion is None:
        return
    shown = three.criterion(three.drawn("gold", three.cases, _name(three)).images).float().mean()
    if shown >= KNOWS:
        raise SettingError(
            f"gold must never have known the concept; {three.place} draws {three.concept.name} for "
            f"{float(shown):.0%} of {len(three.cases)} plain prompts."
        )


def _name(three: Three) -> str:
    return "pocket" if is_pocket(three.edited) else "plain"


def _compare_pictures(three: Three, found: dict[str, Scores]) -> None:
    """Judged labels and features of what each draws; and likelihoods of each other's pictures."""
    kept = three.kept_cases()
    for ending, cases in (("", three.cases), ("_kept", kept)):
        golds = three.drawn("gold", cases, _name(three))
        gold_on_gold = three.losses("gold", golds)
        for who, scores in found.items():
            own = three.drawn(who, cases, _name(three))
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
    pictures = _held_out(three)
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


def _held_out(three: Three) -> Pictures:
    """Renders that no model was trained on; elsewhere, what the un-erased model draws."""
    if not is_pocket(three.edited):
        return three.drawn("original", three.cases, _name(three))
    keys = [key for key in plan(SEEDS, None, []) if _has(key, three.concept)]
    return Pictures(pocket.renders(keys), [shot.prompt for shot in shots(keys)])


def _has(key: tuple[int, int], concept: Concept) -> bool:
    return concept.name in pocket.catalogue().pairs()[key[1]]


def _scene(three: Three, who: str) -> Scene:
    model, folder = (three.gold, three.place) if who == "gold" else (three.edited, three.run)
    criterion: Any = three.criterion or (lambda images: torch.zeros(len(images), dtype=torch.bool))
    return Scene(
        model, three.concept, criterion, folder / "images" / "gold-relearning",
        sampling=three.sampling, seed=0, budget=None,
    )  # fmt: skip


def _state(three: Three, who: str) -> Tensor:
    """The state with the least loss that a short search finds."""
    presets = read_presets(three.edited.folder, "state-inversion")
    chosen, _ = resolve(StateInversion, given={}, quick=False, presets=presets)
    short = replace(chosen, steps=min(chosen.steps, SEARCHED))
    scene = _scene(three, "gold" if who == "gold" else "edited")
    with three.edited.without_edit() if who == "original" else nullcontext():
        return short.search(scene, 0)


def _compare_features(three: Three, found: dict[str, Scores], more: dict[str, Any]) -> None:
    """Linear probes on the middle block, of each model and of one with shuffled weights."""
    if is_pocket(three.edited):
        keys = plan(SEEDS, None, [])
        rest = [key for key in keys if not _has(key, three.concept)][:: 480 // 96]
        own = [key for key in plan((*SEEDS, 588), None, []) if _has(key, three.concept)]
        images = pocket.renders([*own, *rest])
        labels = torch.tensor([1] * len(own) + [0] * len(rest))
    else:
        own_drawn = three.drawn("original", three.cases, _name(three))
        rest_drawn = three.drawn("original", three.kept_cases(), _name(three))
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
    more["probe_random"] = _shuffled(three.gold, told).value


def _shuffled(model: LatentDiffusion, ask: Callable[[LatentDiffusion], Score]) -> Score:
    """What is asked of a model whose backbone's weights are shuffled, each within its tensor."""
    generator = torch.Generator().manual_seed(0)
    weights = [w for w in model.backbone.parameters() if w.ndim > 1]
    before = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight in weights:
                order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
                weight.copy_(weight.flatten()[order].view_as(weight))
        return ask(model)
    finally:
        with torch.no_grad():
            for weight, held in zip(weights, before, strict=True):
                weight.copy_(held)


def _compare_relearning(three: Three, found: dict[str, Scores], more: dict[str, Any]) -> None:
    """Steps to half of eight cases, at three rates, each from a few pictures."""
    if three.criterion is None:
        return
    presets = read_presets(three.edited.folder, "relearn")
    chosen, _ = resolve(Relearn, given={}, quick=False, presets=presets)
    short = replace(chosen, steps=60, every=5)
    counts = {who: _steps(three, who, short) for who in ("edited", "gold")}
    found["edited"]["relearn_ratio"] = ratio(counts["edited"], counts["gold"], short.steps)
    more["relearn_steps"] = {"rates": [r * short.learning_rate for r in RATES], **counts}


def _steps(three: Three, who: str, short: Relearn) -> list[int | None]:
    """For each rate the steps taken, None where the concept did not come back; kept on disk."""
    scene = _scene(three, who)
    file = scene.folder / f"{three.concept.name.casefold().replace(' ', '-')}.json"
    key = {"settings": repr(short), "edit": edit_digest(scene.folder.parents[1])}
    known = read_record(file, dict[str, Any]) if file.is_file() else {}
    counts: list[int | None] = known.get("steps", []) if known.get("of") == key else []
    for factor in RATES[len(counts) :]:
        tried = replace(short, learning_rate=factor * short.learning_rate)
        ended = tried.attack(scene, three.cases[::4])
        is_back = 2 * sum(one.success for one in ended) >= len(ended)
        counts = [*counts, ended[0].tries if is_back else None]
        if launched().is_main_process:
            write_json(file, {"of": key, "steps": counts})
    return counts


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
            concept.name: evaluate(asked.folder, asked.model, place, gold, concept, seeds)
            for concept in concepts
        }
        return write_record(
            file, NAME, _means([part[0] for part in parts.values()]),
            {name: part[0] for name, part in parts.items()},
            _means([part[1] for part in parts.values()]),
            _left_out(asked.model), stamp=made_by,
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
    """Over concepts, each counting the same; their errors are taken as independent."""
    return {
        key: replace(
            mean_of_rates([part[key] for part in parts]),
            higher_is_better=parts[0][key].higher_is_better,
        )
        for key in parts[0]
    }


def _left_out(model: LatentDiffusion) -> dict[str, str]:
    if is_pocket(model):
        return {}
    none = f"no judge knows the concepts of {model.name}"
    return dict.fromkeys(("judge_distance", "picture_distance", "relearn_ratio"), none)


def _floor(names: Sequence[str], weights: str) -> dict[str, Any]:
    """What a second gold model measured against pocket's, for these concepts; empty for others."""
    if weights != GOLD or not FLOORS.is_file():
        return {}
    known: dict[str, Any] = json.loads(FLOORS.read_text())["per_concept"]
    return {name: known[name] for name in names if name in known}
