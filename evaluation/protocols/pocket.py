"""The protocol `pocket`: 256 prompts, two seeds, judged by the suite's ViTs.

Images are drawn by DPM-Solver++ 2M in 12 steps with guidance 3.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from classifiers.predict import load_classifier
from erasure.config import nearest
from erasure.errors import SettingError
from erasure.models.diffusion import DiffusionModel, Sampling
from erasure.models.load import ONE_STEP, POCKET
from erasure.processes import launched
from erasure.storage import write_json
from erasure_datasets.concept import Catalogue, Concept, UnknownConceptError
from evaluation.answer_set import find_answers, read_in_parts
from evaluation.generate import Shot, draw
from evaluation.metrics.accuracy import Judged, Target, accuracy_scores
from evaluation.metrics.clip_score import PocketClip
from evaluation.score import Score, mean

NAME = "pocket"
SEEDS = (188, 288)
ALL_SEEDS = (188, 288, 588, 688, 888)
STEPS, GUIDANCE, SCHEDULER = 12, 3.0, "DPMSolverMultistepScheduler"
SAMPLING = Sampling(STEPS, GUIDANCE, SCHEDULER)
SIDE = 64  # pixels
BASELINES = {"pocket": POCKET / "baseline.json", ONE_STEP: POCKET / "one-step" / "baseline.json"}
Labels = dict[
    tuple[int, int], tuple[int, int, float]
]  # (seed, prompt index) -> (object, style, CLIP cosine)


@cache
def catalogue() -> Catalogue:
    return Catalogue.load(POCKET / "concepts.json")


def plan(
    seeds: Sequence[int], subset: int | None, concepts: Sequence[Concept]
) -> list[tuple[int, int]]:
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


def shots(chosen: Sequence[tuple[int, int]]) -> list[Shot]:
    pairs = catalogue().pairs()
    made = []
    for seed, index in chosen:
        name, style = pairs[index]
        file = f"{style}_{name}_seed{seed}.png".replace(" ", "_")
        made.append(Shot(catalogue().prompt(name, style), seed * 1000 + index, file))
    return made


def judge(images: UInt8[Tensor, "n 3 h w"], chosen: Sequence[tuple[int, int]]) -> Labels:
    """What the suite's judges and CLIP see in images of these (seed, prompt index)."""
    seen_objects = load_classifier(POCKET / "vit").predict(images).tolist()
    seen_styles = load_classifier(POCKET / "style-judge").predict(images).tolist()
    cosines = PocketClip(POCKET).cosine(images, [shot.prompt for shot in shots(chosen)]).tolist()
    return dict(zip(chosen, zip(seen_objects, seen_styles, cosines, strict=True), strict=True))


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
    names = {concept.name for concept in concepts}
    kept = [
        cosine
        for (_, index), (_, _, cosine) in labels.items()
        if not names & set(catalogue().pairs()[index])
    ]
    return {**scores, "CLIP": mean(torch.tensor(kept))}, per_concept


def stamp(chosen: Sequence[tuple[int, int]], sampling: Sampling = SAMPLING) -> dict[str, object]:
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
        "versions": {
            name: version(name) for name in ("torch", "diffusers", "timm", "erasure-toolkit")
        },
    }


def shipped_baseline(name: str = "pocket") -> Labels:
    """An un-erased built-in model's judged labels, drawn once and shipped with the suite."""
    file = BASELINES.get(name)
    if file is None or not file.is_file():
        return {}
    record = json.loads(file.read_text())
    return {
        (int(seed), index): (entry[0], entry[1], entry[2])
        for seed, entries in record["labels"].items()
        for index, entry in enumerate(entries)
    }


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
    labels = judge(images, chosen)
    scores, per_concept = score(labels, concepts)
    record: dict[str, object] = {
        "protocol": NAME if subset is None else f"{NAME}-subset",
        "scores": {name: asdict(value) for name, value in scores.items()},
        "per_concept": {
            name: {k: asdict(v) for k, v in own.items()} for name, own in per_concept.items()
        },
        "baseline": {},
        "stamp": stamp(chosen, how),
    }
    if concepts:
        known = _baseline(chosen, folder, model, how)
        before, _ = score({key: known[key] for key in chosen}, concepts)
        record["baseline"] = {name: asdict(value) for name, value in before.items()}
    record["labels"] = [[seed, index, *labels[seed, index][:2]] for seed, index in chosen]
    if launched().is_main_process:
        write_json(folder / "scores" / f"{record['protocol']}.json", record)
    return record


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
    labels = judge(torch.cat(list(read_in_parts(files))), chosen)
    scores, per_concept = score(labels, targets)
    known = shipped_baseline()
    before = {}
    if targets and all(key in known for key in chosen):
        before, _ = score({key: known[key] for key in chosen}, targets)
    given = {"scheduler": None, "steps": None, "guidance": None}  # not known
    record: dict[str, object] = {
        "protocol": NAME if subset is None else f"{NAME}-subset",
        "scores": {name: asdict(value) for name, value in scores.items()},
        "per_concept": {
            name: {k: asdict(v) for k, v in own.items()} for name, own in per_concept.items()
        },
        "baseline": {name: asdict(value) for name, value in before.items()},
        "stamp": {**stamp(chosen), **given},
        "labels": [[seed, index, *labels[seed, index][:2]] for seed, index in chosen],
    }
    write_json(folder / "scores" / f"{record['protocol']}.json", record)
    return record


def _baseline(
    chosen: Sequence[tuple[int, int]], folder: Path, model: DiffusionModel, how: Sampling
) -> Labels:
    known = shipped_baseline(model.name) if how == (model.sampling or SAMPLING) else {}
    missing = [key for key in chosen if key not in known]
    if missing:
        place = folder / "images" / f"{NAME}-base"
        with model.without_edit():
            images = draw(model, shots(missing), place, steps=how.steps, guidance=how.guidance)
        known = {**known, **judge(images, missing)}
    return known
