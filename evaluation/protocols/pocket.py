"""The protocol `pocket`: 256 prompts, two seeds, judged by the suite's ViTs.

Images are drawn by DPM-Solver++ 2M in 12 steps with guidance 3.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from classifiers.predict import load_classifier
from erasure.config import nearest
from erasure.errors import SettingError
from erasure.models.diffusion import DiffusionModel, Sampling
from erasure.models.load import ONE_STEP, POCKET
from erasure.processes import launched
from erasure.storage import read_tensors, write_json
from erasure_datasets.canvas import PocketCanvas
from erasure_datasets.concept import Catalogue, Concept, UnknownConceptError
from evaluation.answer_set import find_answers, read_in_parts
from evaluation.generate import Shot, draw
from evaluation.metrics.accuracy import Judged, Target, accuracy_scores
from evaluation.metrics.clip_score import PocketClip, clip_scores
from evaluation.metrics.fid import ClipFeatures, distances
from evaluation.metrics.perceptual import sketch, unit_features
from evaluation.score import Score, mean

NAME = "pocket"
SEEDS = (188, 288)
ALL_SEEDS = (188, 288, 588, 688, 888)
STEPS, GUIDANCE, SCHEDULER = 12, 3.0, "DPMSolverMultistepScheduler"
SAMPLING = Sampling(STEPS, GUIDANCE, SCHEDULER)
SIDE = 64  # pixels
BASELINES = {"pocket": POCKET / "baseline.json", ONE_STEP: POCKET / "one-step" / "baseline.json"}
SKETCH = 128  # numbers per image that stand for all layers of Pocket CLIP
Key = tuple[int, int]  # (seed, prompt index)
Labels = dict[Key, tuple[int, int, float]]  # object, style, CLIP cosine
Looks = dict[Key, Float[Tensor, " d"]]  # Pocket CLIP's features for FID and KID, then the sketch


@cache
def catalogue() -> Catalogue:
    return Catalogue.load(POCKET / "concepts.json")


def plan(seeds: Sequence[int], subset: int | None, concepts: Sequence[Concept]) -> list[Key]:
    """(seed, prompt index) of every image.

    A subset keeps all of the targets' images of the first seed and spreads the rest evenly over
    objects and styles, up to `subset` images. SettingError for a bad seed or subset.
    """
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


def judge(images: UInt8[Tensor, "n 3 h w"], chosen: Sequence[Key]) -> Labels:
    """What the suite's judges and CLIP see in images of these (seed, prompt index)."""
    seen_objects = load_classifier(POCKET / "vit").predict(images).tolist()
    seen_styles = load_classifier(POCKET / "style-judge").predict(images).tolist()
    prompts = [shot.prompt for shot in shots(chosen)]
    cosines = clip_scores(PocketClip(POCKET), images, prompts).tolist()
    return dict(zip(chosen, zip(seen_objects, seen_styles, cosines, strict=True), strict=True))


def look(images: UInt8[Tensor, "n 3 h w"], chosen: Sequence[Key]) -> Looks:
    """What FID, KID and the perceptual distance go by, for images of these (seed, prompt index)."""
    clip = PocketClip(POCKET)
    sketches = sketch(unit_features(clip.layers(images)), SKETCH)
    return dict(zip(chosen, torch.cat([ClipFeatures(clip)(images), sketches], 1), strict=True))


def renders(chosen: Sequence[Key]) -> UInt8[Tensor, "n 3 64 64"]:
    """Held-out Pocket Canvas images of the same pairs, another one for each seed."""
    data, pairs = PocketCanvas("test", len(ALL_SEEDS)), len(catalogue().pairs())
    rows = [ALL_SEEDS.index(seed) * pairs + index for seed, index in chosen]
    return torch.stack([data[row][0] for row in rows])


def without(chosen: Iterable[Key], concepts: Sequence[Concept]) -> list[Key]:
    """Those whose prompt names none of the concepts."""
    names = {concept.name for concept in concepts}
    return [key for key in chosen if not names & set(catalogue().pairs()[key[1]])]


def quality(looks: Looks, reference: Looks) -> dict[str, Score]:
    """FID and KID of the reference's images; FID is left out below 144 images, KID below 11.

    Between two sets of 240 renders, one of each pair, FID is 0.87 and KID -0.041.
    """
    seen, wanted = (torch.stack([part[key] for key in reference]) for part in (looks, reference))
    return distances(seen[:, :-SKETCH], wanted[:, :-SKETCH])


def distance(looks: Looks, before: Looks, kept: Sequence[Key]) -> Score:
    """Mean perceptual distance of kept images to those that the un-erased model draws instead."""
    first, second = (torch.stack([part[key] for key in kept]) for part in (looks, before))
    change = (first[:, -SKETCH:] - second[:, -SKETCH:]).square().sum(1)
    return replace(mean(change), higher_is_better=False)


def score(
    labels: Labels, concepts: Sequence[Concept]
) -> tuple[dict[str, Score], dict[str, dict[str, Score]]]:
    """(top-level scores, scores per concept); SettingError if a concept is not the protocol's."""
    styles, objects = catalogue().styles, catalogue().objects
    targets = []
    for concept in concepts:
        domain = styles if concept.name in styles else objects
        if concept.name not in domain:
            raise SettingError(
                f"the protocol pocket cannot judge {concept.name!r}. "
                f"{nearest(concept.name, catalogue().targets())}"
            )
        targets.append(Target(concept.name, domain is styles, domain.index(concept.name)))
    indices = torch.tensor([index for _, index in labels])
    seen = torch.tensor([[o, s] for o, s, _ in labels.values()])
    judged = Judged(indices // len(styles), indices % len(styles), seen[:, 0], seen[:, 1])
    scores, per_concept = accuracy_scores(judged, targets)
    cosines = torch.tensor([labels[key][2] for key in without(labels, concepts)])
    return {**scores, "CLIP": mean(cosines)}, per_concept


def stamp(chosen: Sequence[Key], sampling: Sampling = SAMPLING) -> dict[str, object]:
    return {
        "protocol": NAME,
        "images": len(chosen),
        "seeds": sorted({seed for seed, _ in chosen}),
        "scheduler": sampling.scheduler,
        "steps": sampling.steps,
        "guidance": sampling.guidance,
        "resolution": SIDE,
        "judge": "pocket vit and style-judge",
        "clip": "pocket-clip, cosine, images without a target",
        "features": "pocket-clip image embeddings x sqrt(d), images without a target",
        "reference": "as many held-out renders of the same pairs",
        "perceptual": f"pocket-clip layers in {SKETCH} numbers, to the un-erased model's image",
        "versions": {
            name: version(name) for name in ("torch", "diffusers", "timm", "erasure-toolkit")
        },
    }


def shipped_baseline(name: str = "pocket") -> tuple[Labels, Looks]:
    """What an un-erased built-in model was judged to draw, once, as shipped with the suite."""
    file = BASELINES.get(name)
    if file is None or not file.is_file():
        return {}, {}
    record = json.loads(file.read_text())
    labels = {
        (int(seed), index): (entry[0], entry[1], entry[2])
        for seed, entries in record["labels"].items()
        for index, entry in enumerate(entries)
    }
    tensors, _ = read_tensors(file.with_suffix(".safetensors"))
    return labels, dict(zip(labels, tensors["looks"].float(), strict=True))


def evaluate(
    model: DiffusionModel, folder: Path, *, concepts: Sequence[Concept],
    seeds: Sequence[int] = SEEDS, subset: int | None = None, sampling: Sampling | None = None,
) -> dict[str, object]:  # fmt: skip
    """Draw, judge and score; returns the record that it writes.

    `sampling` replaces the protocol's steps, guidance and scheduler; a one-step generator has its
    own.

    Writes folder/images/pocket and, with the record, folder/scores/pocket[-subset].json. `concepts`
    empty means an un-erased model. The baseline is the suite's own where the seeds allow, else
    drawn by the model without its edit.
    """
    if model.catalogue is None or model.catalogue.pairs() != catalogue().pairs():
        raise SettingError(
            f"the protocol pocket needs a model with pocket's concept list; {model.name} has none."
        )
    how = sampling or model.sampling or SAMPLING
    model.use_scheduler(how.scheduler)
    chosen = plan(seeds, subset, concepts)
    place = folder / "images" / NAME
    images = draw(model, shots(chosen), place, steps=how.steps, guidance=how.guidance)
    known = _baseline(chosen, folder, model, how) if concepts else ({}, {})
    return _record(folder, images, chosen, concepts, known, stamp(chosen, how), subset)


def evaluate_images(
    images: Path, folder: Path, *, concepts: Sequence[str], seeds: Sequence[int] = SEEDS,
    subset: int | None = None,
) -> dict[str, object]:  # fmt: skip
    """As `evaluate`, of images that any tool drew, by the protocol's file names, in a folder."""
    try:
        targets = [catalogue().concept(name) for name in concepts]
    except UnknownConceptError as error:
        raise SettingError(f"{NAME}: {error}") from error
    chosen = plan(seeds, subset, targets)
    every = shots(plan(ALL_SEEDS, None, []))
    names = [shot.file for shot in shots(chosen)]
    files = find_answers(images, names, [shot.file for shot in every], size=SIDE)
    known = shipped_baseline()
    if not targets or any(key not in known[0] for key in chosen):
        known = {}, {}
    not_known = {"scheduler": None, "steps": None, "guidance": None}
    found = torch.cat(list(read_in_parts(files)))
    return _record(folder, found, chosen, targets, known, stamp(chosen) | not_known, subset)


def _record(
    folder: Path, images: UInt8[Tensor, "n 3 h w"], chosen: Sequence[Key],
    concepts: Sequence[Concept], known: tuple[Labels, Looks], made_by: dict[str, object],
    subset: int | None,
) -> dict[str, object]:  # fmt: skip
    """Judge and score images beside the un-erased model's; write the record and return it."""
    labels, looks = judge(images, chosen), look(images, chosen)
    scores, per_concept = score(labels, concepts)
    known_labels, known_looks = known
    before: dict[str, Score] = {}
    if known_labels:
        before, _ = score({key: known_labels[key] for key in chosen}, concepts)
    if kept := without(chosen, concepts):
        reference = look(renders(kept), kept)
        scores |= quality(looks, reference)
        if known_labels:
            before |= quality(known_looks, reference)
            scores["perceptual"] = distance(looks, known_looks, kept)
    record: dict[str, object] = {
        "protocol": NAME if subset is None else f"{NAME}-subset",
        "scores": {name: asdict(value) for name, value in scores.items()},
        "per_concept": {
            name: {k: asdict(v) for k, v in own.items()} for name, own in per_concept.items()
        },
        "baseline": {name: asdict(value) for name, value in before.items()},
        "stamp": made_by,
        "labels": [[seed, index, *labels[seed, index][:2]] for seed, index in chosen],
    }
    if launched().is_main_process:
        write_json(folder / "scores" / f"{record['protocol']}.json", record)
    return record


def _baseline(
    chosen: Sequence[Key], folder: Path, model: DiffusionModel, how: Sampling
) -> tuple[Labels, Looks]:
    usual = how == (model.sampling or SAMPLING)
    labels, looks = shipped_baseline(model.name) if usual else ({}, {})
    missing = [key for key in chosen if key not in labels]
    if missing:
        place = folder / "images" / f"{NAME}-base"
        with model.without_edit():
            images = draw(model, shots(missing), place, steps=how.steps, guidance=how.guidance)
        labels, looks = {**labels, **judge(images, missing)}, {**looks, **look(images, missing)}
    return labels, looks
