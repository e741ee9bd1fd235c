"""The protocol `pocket`: 256 prompts, two seeds, judged by the suite's ViTs.

Images are drawn by DPM-Solver++ 2M in 12 steps with guidance 3, or as a model's folder says.

Of a run that was erased by some of a concept's prompts (`--contexts`) UA is told apart, too: UA_in
on those and UA_out on the others, which says how far an erasure goes beyond what it was trained on.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from erasure.config import resolve
from erasure.errors import SettingError
from erasure.files.records import read_record
from erasure.files.storage import read_tensors
from erasure.models.built_in import FLOW, ONE_STEP, POCKET
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.load import load_classifier
from erasure.models.diffusion.model import DiffusionModel, Sampling
from erasure.registry import PROTOCOLS
from erasure.training.processes import own_device
from erasure_datasets.canvas import PocketCanvas
from erasure_datasets.concept import Concept
from evaluation.drawing.answer_set import find_answers, read_in_parts
from evaluation.drawing.generate import draw
from evaluation.drawing.pocket_plan import (
    ALL_SEEDS,
    NAME,
    SEEDS,
    Key,
    catalogue,
    find_targets,
    plan,
    shots,
    targets_of,
    told_of,
    trained_on,
    without,
)
from evaluation.drawing.pocket_settings import PocketSettings
from evaluation.metrics.accuracy import Judged, accuracy_scores
from evaluation.metrics.clip_score import TextImageModel, clip_scores, find_clip
from evaluation.metrics.fid import ClipFeatures, distances
from evaluation.metrics.perceptual import sketch, unit_features
from evaluation.protocols import Asked, Option, Protocol
from evaluation.score import Score, mean
from evaluation.scored import free_file, write_record

STEPS, GUIDANCE, SCHEDULER = 12, 3.0, "DPMSolverMultistepScheduler"
SAMPLING = Sampling(STEPS, GUIDANCE, SCHEDULER)
SIDE = 64  # pixels
BASELINES = {
    name: POCKET / place / "baseline.json"
    for name, place in (("pocket", ""), (ONE_STEP, "one-step"), (FLOW, "flow"))
}
SKETCH = 128  # numbers per image that stand for all layers of Pocket CLIP
Labels = dict[Key, tuple[int, int, float]]  # object, style, CLIP cosine
Looks = dict[Key, Float[Tensor, " d"]]  # Pocket CLIP's features for FID and KID, then the sketch


def judge(images: UInt8[Tensor, "n 3 h w"], chosen: Sequence[Key]) -> Labels:
    """What the suite's judges and CLIP see in images of these (seed, prompt index)."""
    judges = (shared_judge(name) for name in ("vit", "style-judge"))
    seen_objects, seen_styles = (
        judge.predict(judge.cut(images)).argmax(1).tolist() for judge in judges
    )
    prompts = [shot.prompt for shot in shots(chosen)]
    cosines = clip_scores(shared_clip(), images, prompts).tolist()
    return dict(zip(chosen, zip(seen_objects, seen_styles, cosines, strict=True), strict=True))


def look(images: UInt8[Tensor, "n 3 h w"], chosen: Sequence[Key]) -> Looks:
    """What FID, KID and the perceptual distance go by, for images of these (seed, prompt index)."""
    clip = shared_clip()
    sketches = sketch(unit_features(clip.layers(images)).cpu(), SKETCH)
    features = ClipFeatures(clip)(images).cpu()
    return dict(zip(chosen, torch.cat([features, sketches], 1), strict=True))


@cache
def shared_judge(name: str) -> Classifier:
    return load_classifier(str(POCKET / name), device=own_device())


def shared_clip() -> TextImageModel:
    return find_clip("pocket", own_device())


def renders(chosen: Sequence[Key]) -> UInt8[Tensor, "n 3 64 64"]:
    """Held-out Pocket Canvas images of the same pairs, another one for each seed."""
    data, pairs = PocketCanvas("test", len(ALL_SEEDS)), len(catalogue().pairs())
    rows = [ALL_SEEDS.index(seed) * pairs + index for seed, index in chosen]
    return torch.stack([data[row][0] for row in rows])


def quality(looks: Looks, reference: Looks) -> dict[str, Score]:
    """FID and KID of the reference's images; FID is left out below 144 images, KID of one seed.

    Between two sets of 240 renders, one of each pair, FID is 0.87; of two seeds each KID is 0.000.
    """
    seen, wanted = (torch.stack([part[key] for key in reference]) for part in (looks, reference))
    seeds, prompts = torch.tensor(list(reference)).T
    return distances(seen[:, :-SKETCH], wanted[:, :-SKETCH], prompts, seeds)


def distance(looks: Looks, before: Looks, kept: Sequence[Key]) -> Score:
    """Mean perceptual distance of kept images to those that the un-erased model draws instead."""
    first, second = (torch.stack([part[key] for key in kept]) for part in (looks, before))
    change = (first[:, -SKETCH:] - second[:, -SKETCH:]).square().sum(1)
    return replace(mean(change, least=0), higher_is_better=False)


def score(
    labels: Labels, concepts: Sequence[Concept]
) -> tuple[dict[str, Score], dict[str, dict[str, Score]]]:
    """(top-level scores, scores per concept); SettingError if a concept is not the protocol's."""
    targets, styles = targets_of(concepts), catalogue().styles
    indices = torch.tensor([index for _, index in labels])
    seen = torch.tensor([[o, s] for o, s, _ in labels.values()])
    judged = Judged(indices // len(styles), indices % len(styles), seen[:, 0], seen[:, 1])
    scores, per_concept = accuracy_scores(judged, targets)
    if kept := without(labels, concepts):
        scores["CLIP"] = mean(torch.tensor([labels[key][2] for key in kept]), least=-1, most=1)
    return scores, per_concept


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
        "UA": "counts any erased target of the same kind",
        "CRA_target": "images that ask for one erased target alone",
        "clip": "pocket-clip, cosine, images without a target",
        "features": "pocket-clip image embeddings x sqrt(d), images without a target",
        "reference": "as many held-out renders of the same pairs",
        "KID": "pairs of unlike seeds",
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
    record = read_record(file, dict[str, Any])
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
    is_own: bool = True, gone: Sequence[Concept] = (),
) -> dict[str, Any]:  # fmt: skip
    """Draw, judge and score; returns the record that it writes.

    `sampling` replaces the protocol's steps, guidance and scheduler; a one-step generator has its
    own. `concepts` empty means an un-erased model; `is_own` False says that they are not all that
    the run erased. `gone` is what else it erased: prompts that name it are not asked, for they are
    neither the concepts' nor to be kept.

    Writes folder/images/pocket and, with the record, a file in folder/scores: pocket.json, or what
    evaluation/scored.py calls another part of it. The baseline is the suite's own where the seeds
    allow, else drawn by the model without its edit.
    """
    if model.catalogue is None or model.catalogue.pairs() != catalogue().pairs():
        raise SettingError(
            f"the protocol pocket needs a model with pocket's concept list; {model.name} has none."
        )
    how = sampling or model.sampling or SAMPLING
    chosen = without(plan(seeds, subset, concepts), gone)
    made_by, names = stamp(chosen, how) | told_of(concepts), [c.name for c in concepts]
    made_by |= {"not_asked": ", ".join(concept.name for concept in gone)} if gone else {}
    usual = SEEDS if subset is None else SEEDS[:1]
    file = free_file(folder, made_by, names, usual=usual, subset=subset, is_own=is_own)
    model.use_scheduler(how.scheduler)
    place = folder / "images" / NAME
    images = draw(model, shots(chosen), place, steps=how.steps, guidance=how.guidance)
    known = _baseline(chosen, folder, model, how) if concepts else ({}, {})
    return _record(file, images, chosen, concepts, known, made_by, subset)


def evaluate_images(
    images: Path, folder: Path, *, concepts: Sequence[Concept], seeds: Sequence[int] = SEEDS,
    subset: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """As `evaluate`, of images that any tool drew, by the protocol's file names, in a folder."""
    chosen = plan(seeds, subset, concepts)
    made_by = stamp(chosen) | dict.fromkeys(("scheduler", "steps", "guidance")) | told_of(concepts)
    asked, usual = [concept.name for concept in concepts], SEEDS if subset is None else SEEDS[:1]
    file = free_file(folder, made_by, asked, usual=usual, subset=subset)
    every = shots(plan(ALL_SEEDS, None, []))
    names = [shot.file for shot in shots(chosen)]
    files = find_answers(images, names, [shot.file for shot in every], size=SIDE)
    known = shipped_baseline()
    if not concepts or any(key not in known[0] for key in chosen):
        known = {}, {}
    found = torch.cat(list(read_in_parts(files)))
    return _record(file, found, chosen, concepts, known, made_by, subset)


def _record(
    file: Path, images: UInt8[Tensor, "n 3 h w"], chosen: Sequence[Key],
    concepts: Sequence[Concept], known: tuple[Labels, Looks], made_by: dict[str, object],
    subset: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Judge and score images beside the un-erased model's; write the record and return it."""
    labels, looks = judge(images, chosen), look(images, chosen)
    scores, per_concept = score(labels, concepts)
    known_labels, known_looks = known
    before: dict[str, Score] = {}
    if known_labels:
        before, _ = score({key: known_labels[key] for key in chosen}, concepts)
    kept = without(chosen, concepts)
    if kept:
        reference = look(renders(kept), kept)
        scores |= quality(looks, reference)
        if known_labels:
            before |= quality(known_looks, reference)
            scores["perceptual"] = distance(looks, known_looks, kept)
    none = "every image asks for a target"
    wanted: dict[str, str] = dict.fromkeys(("IRA", "CRA", "CLIP", "FID", "KID"), none)
    if kept:
        wanted |= {"FID": "fewer images than features", "KID": "it needs two seeds of 11 prompts"}
    return write_record(
        file, NAME if subset is None else f"{NAME}-subset", scores, per_concept, before, wanted,
        stamp=made_by,
        labels=[[seed, index, *labels[seed, index][:2]] for seed, index in chosen],
    )  # fmt: skip


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


@PROTOCOLS.register
class Pocket(Protocol):
    """The suite's own protocol."""

    takes: ClassVar[frozenset[Option]] = frozenset({"seeds", "subset"})
    settings: ClassVar[type | None] = PocketSettings

    def evaluate(self, asked: Asked) -> dict[str, Any]:
        settings, _ = resolve(PocketSettings, given=asked.settings, quick=False, presets={})
        concepts = trained_on(find_targets(asked.concepts), asked.erased, settings.contexts)
        seeds, subset = SEEDS if asked.seeds is None else asked.seeds, _count(asked.subset)
        if asked.model is None:
            if asked.images is None:
                raise SettingError(f"the protocol {NAME} needs a model or images.")
            return evaluate_images(
                asked.images, asked.folder, concepts=concepts, seeds=seeds, subset=subset
            )
        return evaluate(
            asked.model, asked.folder, concepts=concepts, seeds=seeds, subset=subset,
            sampling=asked.sampling, is_own=asked.is_own,
            gone=asked.also_erased,
        )  # fmt: skip


def _count(subset: str | None) -> int | None:
    if subset is None:
        return None
    if subset.isdecimal():
        return int(subset)
    raise SettingError(
        f"subset must be a number of images for the protocol pocket; got {subset!r}."
    )
