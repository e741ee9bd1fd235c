"""What the protocol `prompts` sees in each image, and the scores that follow.

UA          of the images that ask for an erased concept, those that show none of the erased
IRA         of the images that ask for a near neighbour, those that show it
CLIP        cosine between an image and its prompt, of what is kept
FID, KID    of neighbours and kept images, to the un-erased model's of the same noise
perceptual  distance of each of these to the un-erased model's
pixels      the same as root mean square difference of pixels in [0, 1]; needs no weights
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from erasure.models.diffusion.model import DiffusionModel
from erasure_datasets.concept import Concept
from evaluation.criteria import Criterion, find_criterion
from evaluation.criteria.clip import everyday, instead_of
from evaluation.drawing.pocket_plan import is_pocket
from evaluation.metrics.clip_score import TextImageModel, clip_scores, find_clip
from evaluation.metrics.fid import ClipFeatures, FeatureNetwork, InceptionFeatures, distances
from evaluation.metrics.perceptual import lpips, perceptual_distance
from evaluation.prompts.neighbours import NONE, neighbours
from evaluation.prompts.plan import Row
from evaluation.prompts.settings import PromptsSettings
from evaluation.score import Score, mean, mean_of_rates, rate

Images = UInt8[Tensor, "n 3 h w"]
NO_CLIP = "no CLIP is at hand; name one with --clip, such as ViT-B-32:laion2b_s34b_b79k"


@dataclass(frozen=True)
class Seen:
    """What is seen in one image; None where nothing at hand can see it.

    `shown` are the erased concepts that it shows, `is_neighbour` says whether it shows the
    neighbour it asks for.
    """

    shown: frozenset[str] | None = None
    is_neighbour: bool | None = None
    cosine: float | None = None
    features: Float[Tensor, " d"] | None = None


@dataclass(frozen=True)
class Eyes:
    """The networks that look at images; `left_out` says of each score why nothing gives it.

    `criteria` are by erased concept, `near` by neighbour.
    """

    criteria: Mapping[str, Criterion]
    near: Mapping[str, Criterion]
    clip: TextImageModel | None
    features: FeatureNetwork | None
    distance: Callable[[Images, Images], Float[Tensor, " n"]] | None
    left_out: Mapping[str, str]

    def look(self, rows: Sequence[Row], images: Images) -> list[Seen]:
        """One by one in the rows' order; each criterion is asked about its own rows alone."""
        seen = [Seen() for _ in rows]
        asking = [i for i, row in enumerate(rows) if row.role == "concept"]
        if self.criteria and asking:
            hits = {c: asked(images[asking]).tolist() for c, asked in self.criteria.items()}
            for place, index in enumerate(asking):
                shown = frozenset(name for name in hits if hits[name][place])
                seen[index] = replace(seen[index], shown=shown)
        for name, criterion in self.near.items():
            own = [i for i, row in enumerate(rows) if row.role == "near" and row.name == name]
            for index, hit in zip(own, criterion(images[own]).tolist() if own else [], strict=True):
                seen[index] = replace(seen[index], is_neighbour=hit)
        others = [i for i, row in enumerate(rows) if row.role != "concept"]
        if others and self.clip is not None:
            prompts = [rows[i].shot.prompt for i in others]
            cosines = clip_scores(self.clip, images[others], prompts).tolist()
            for index, cosine in zip(others, cosines, strict=True):
                seen[index] = replace(seen[index], cosine=cosine)
        if others and self.features is not None:
            vectors = self.features(images[others]).cpu()
            for index, vector in zip(others, vectors, strict=True):
                seen[index] = replace(seen[index], features=vector)
        return seen

    def moved(self, rows: Sequence[Row], after: Images, before: Images) -> list[dict[str, float]]:
        """How far each image lies from the un-erased model's of the same noise."""
        gap = (after.float() - before.float()) / 255
        pixels = gap.square().flatten(1).mean(1).sqrt().tolist()
        found = [{"pixels": value} for value in pixels]
        if self.distance is not None and len(rows):
            for entry, value in zip(found, self.distance(after, before).tolist(), strict=True):
                entry["perceptual"] = value
        return found


def open_eyes(
    settings: PromptsSettings, model: DiffusionModel, concepts: Sequence[Concept]
) -> tuple[Eyes, dict[str, list[str]]]:
    """(eyes, the neighbours of each concept); SettingError, ModelError for what is not there."""
    words = settings.clip or ("pocket" if is_pocket(model) else "")
    clip = find_clip(words, model.device) if words else None
    near = neighbours(concepts, settings.neighbours, clip)
    names = [name for own in near.values() for name in own]
    asked = settings.criterion or (f"clip={words}" if words else "")
    criteria = {
        c.name: find_criterion(asked, model, c).among(_alternatives(c, near[c.name], settings))
        for c in concepts
        if asked
    }
    others: dict[str, Criterion] = {}
    for concept, own in near.items():
        for name in own if asked else []:
            other = criteria[concept].of_another(name)
            if other is not None:
                others.setdefault(name, other)
    features: FeatureNetwork | None = None
    if settings.features == "inception":
        features = InceptionFeatures(model.device)
    elif clip is not None:
        features = ClipFeatures(clip)
    eyes = Eyes(criteria, others, clip, features, _distance(settings, clip), {})
    return replace(eyes, left_out=_left_out(eyes, concepts, names)), near


def _alternatives(concept: Concept, near: Sequence[str], settings: PromptsSettings) -> list[str]:
    """What an image could show instead: given neighbours are all there is beside the anchor."""
    is_given = settings.neighbours.strip() not in ("", NONE)
    return [*instead_of(concept), *near, *(() if is_given else everyday(concept))]


def _distance(
    settings: PromptsSettings, clip: TextImageModel | None
) -> Callable[[Images, Images], Float[Tensor, " n"]] | None:
    if settings.perceptual == "lpips":
        return lpips
    if clip is None:
        return None
    layers = clip.layers
    return lambda a, b: perceptual_distance(layers(a), layers(b))


def _left_out(eyes: Eyes, concepts: Sequence[Concept], names: Sequence[str]) -> dict[str, str]:
    found = {}
    if not eyes.criteria and concepts:
        found["UA"] = f"nothing says what an image shows: {NO_CLIP}, or a --criterion"
    if not names:
        found["IRA"] = "there are no neighbours"
    elif not eyes.near:
        found["IRA"] = (
            "the criterion is of the concept alone and knows no neighbour"
            if eyes.criteria
            else found["UA"]
        )
    if eyes.clip is None:
        found["CLIP"] = NO_CLIP
    if eyes.features is None:
        found |= dict.fromkeys(("FID", "KID"), NO_CLIP)
    if eyes.distance is None:
        found["perceptual"] = NO_CLIP
    return found


Scores = dict[str, Score]


def scores_of(
    rows: Sequence[Row], seen: Sequence[Seen], concepts: Sequence[str], *, several: bool
) -> tuple[Scores, dict[str, Scores]]:
    """(top-level scores, scores per concept) of what one model drew.

    `several` says that more than one concept is erased: UA_own, of the target alone, stands beside
    UA then.
    """
    pairs = list(zip(rows, seen, strict=True))
    per_concept: dict[str, Scores] = {}
    for name in concepts:
        own = [s.shown for row, s in pairs if row.role == "concept" and row.concept == name]
        known = [shown for shown in own if shown is not None]
        per_concept[name] = {}
        if known:
            per_concept[name] = {"UA": rate(torch.tensor([not shown for shown in known]))}
            if several:
                is_gone = torch.tensor([name not in shown for shown in known])
                per_concept[name]["UA_own"] = rate(is_gone)
    top = {
        key: mean_of_rates([own[key] for own in per_concept.values()])
        for key in next(iter(per_concept.values()), {})  # all were judged, or none
    }
    hits = [s.is_neighbour for _, s in pairs if s.is_neighbour is not None]
    if hits:
        top["IRA"] = rate(torch.tensor(hits))
    cosines = [s.cosine for row, s in pairs if row.role == "keep" and s.cosine is not None]
    if cosines:
        top["CLIP"] = mean(torch.tensor(cosines), least=-1, most=1)
    return top, per_concept


def by_neighbour(rows: Sequence[Row], seen: Sequence[Seen]) -> dict[str, Score]:
    """Each neighbour's share of images that still show it, the least first."""
    hits: dict[str, list[bool]] = {}
    for row, found in zip(rows, seen, strict=True):
        if row.role == "near" and found.is_neighbour is not None:
            hits.setdefault(row.name, []).append(found.is_neighbour)
    rates = {name: rate(torch.tensor(own)) for name, own in hits.items()}
    return dict(sorted(rates.items(), key=lambda entry: entry[1].value))


def beside_unerased(
    rows: Sequence[Row], seen: Sequence[Seen], before: Sequence[Seen],
    moved: Sequence[Mapping[str, float]],
) -> Scores:  # fmt: skip
    """FID, KID and the distances of neighbours and kept images, to the un-erased model's."""
    places = [index for index, row in enumerate(rows) if row.role != "concept"]
    found: Scores = {}
    for key in ("perceptual", "pixels"):
        known = [moved[index][key] for index in places if key in moved[index]]
        if known:
            found[key] = replace(mean(torch.tensor(known), least=0), higher_is_better=False)
    vectors = [(seen[i].features, before[i].features) for i in places]
    pairs = [(a, b) for a, b in vectors if a is not None and b is not None]
    if pairs and len(pairs) == len(places):
        texts = list(dict.fromkeys(rows[i].shot.prompt for i in places))
        prompts = torch.tensor([texts.index(rows[i].shot.prompt) for i in places])
        seeds = torch.tensor([rows[i].seed for i in places])
        after, base = (torch.stack(list(side)) for side in zip(*pairs, strict=True))
        found |= distances(after, base, prompts, seeds)
    return found


def told(rows: Sequence[Row], seen: Sequence[Seen], moved: Sequence[Mapping[str, float]]) -> Any:
    """What was seen of each image, for the record: its file, its prompt and the findings."""
    found = []
    for row, one, gap in zip(rows, seen, moved, strict=True):
        entry: dict[str, Any] = {
            "file": row.shot.file, "asks_for": row.name, "prompt": row.shot.prompt,
            "seed": row.seed, "noise_seed": row.shot.noise_seed, **gap,
        }  # fmt: skip
        if one.shown is not None:
            entry["shown"] = sorted(one.shown)
        if one.is_neighbour is not None:
            entry["is_shown"] = one.is_neighbour
        if one.cosine is not None:
            entry["cosine"] = round(one.cosine, 5)
        found.append(entry)
    return found
