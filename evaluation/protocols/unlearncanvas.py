"""The protocol `unlearncanvas`: every object in every style, judged by the benchmark's own ViTs.

Zhang et al. (NeurIPS 2024), https://arxiv.org/abs/2402.11846. 20 objects x 50 styles x seeds 188,
288, 588, 688 and 888; DDIM, 100 steps, guidance 9, 512 px; {theme}_{object}_seed{seed}.jpg.

Choices where paper, README and published scripts differ or are silent are settings, and in the
stamp (evaluation/unlearncanvas/settings.py). By default the photographs' theme Seed_Images is left
out, images of a target count for UA and CRA_target alone, and each image has noise of its own.
"""

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch

from classifiers.unlearncanvas import Judges
from erasure.config import Value, resolve
from erasure.errors import SettingError
from erasure.files.records import read_record
from erasure.models.diffusion.model import DiffusionModel, Sampling
from erasure.registry import PROTOCOLS
from erasure.training.processes import own_device
from erasure.training.run_folder import run_record
from erasure_datasets.errors import DataWarning
from erasure_datasets.unlearncanvas import OBJECTS
from evaluation.drawing.answer_set import find_answers, read_in_parts
from evaluation.drawing.generate import draw, own_noise
from evaluation.drawing.sampling import asked_sampling
from evaluation.metrics.accuracy import Judged, Target, accuracy_scores
from evaluation.protocols import Asked, Option, Protocol
from evaluation.score import Score
from evaluation.scored import LabelsShape, free_file, write_record
from evaluation.unlearncanvas.noise import RunningNoise
from evaluation.unlearncanvas.plan import SEEDS, Key, Plan, find_targets, plan, shots
from evaluation.unlearncanvas.quality import Eyes, quality
from evaluation.unlearncanvas.settings import RESOLUTION, UnlearnCanvasSettings

NAME = "unlearncanvas"
SCHEDULER = "DDIMScheduler"
IN_MEMORY = 256  # images that are drawn before they are judged and let go
Labels = dict[Key, tuple[int, int]]  # object and theme that the judges saw


def score(
    labels: Labels, chosen: Plan, targets: list[Target], *, target_in_cra: bool = False
) -> tuple[dict[str, Score], dict[str, dict[str, Score]]]:
    """(top-level scores, scores per target) of a plan's images."""
    places = torch.tensor([place for _, place in chosen.keys])
    seen = torch.tensor([labels[key] for key in chosen.keys])
    judged = Judged(places % len(OBJECTS), places // len(OBJECTS), seen[:, 0], seen[:, 1])
    return accuracy_scores(
        judged, targets, target_in_cra=target_in_cra, rate_of=chosen.rate_of(judged)
    )


def evaluate(
    model: DiffusionModel, folder: Path, *, concepts: Sequence[str],
    settings: UnlearnCanvasSettings, seeds: Sequence[int] = SEEDS, subset: str | None = None,
    sampling: Sampling | None = None, reference: Path | None = None, is_own: bool = True,
    given: Mapping[str, Value] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Draw, judge and score; returns the record, which a file in folder/scores holds.

    It is unlearncanvas.json, or what evaluation/scored.py calls another part of it; `is_own` False
    says that the concepts are not all that the run erased. `sampling` is what the edit demands,
    `given` what the user asks of a model that can be drawn otherwise. Images lie in
    images/unlearncanvas, the un-erased model's in images/unlearncanvas-base, unless `reference`
    names the folder of its own evaluation. No `concepts` means an un-erased model.
    """
    targets = find_targets(concepts)
    chosen = plan(seeds, subset, targets, seed_images=settings.seed_images)
    judges = _judges(settings, model.device)
    usual = sampling or model.sampling or Sampling(settings.steps, settings.guidance, SCHEDULER)
    how = asked_sampling(usual, model, given or {})
    model.use_scheduler(how.scheduler)
    model.use_resolution(settings.resolution or min(RESOLUTION, model.resolution))
    eyes = Eyes.open(settings, judges.object, model.resolution, chosen.keys)
    stamp = _stamp(chosen, settings, judges, model.resolution, how) | eyes.stamp
    file = _free_file(folder, stamp, targets, is_own=is_own)
    known = _known(reference, stamp, chosen) if reference else None
    place = folder / "images" / NAME
    before = reference / "images" / NAME if reference else place.with_name(f"{NAME}-base")
    labels = _drawn(model, chosen, place, judges, stamp)
    if targets and known is None:
        with model.without_edit():
            known = _drawn(model, chosen, before, judges, stamp)
    kept = chosen.without(targets)
    beside = quality(eyes, kept, [place / name for name in _files(kept)], _at(before, kept))
    return _record(file, labels, known, chosen, targets, beside, stamp)


def evaluate_images(
    images: Path, folder: Path, *, concepts: Sequence[str], settings: UnlearnCanvasSettings,
    seeds: Sequence[int] = SEEDS, subset: str | None = None, reference: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """As `evaluate`, of an answer set that any tool drew; how it was drawn is not in the stamp."""
    targets = find_targets(concepts)
    chosen = plan(seeds, subset, targets, seed_images=settings.seed_images)
    size = settings.resolution or RESOLUTION
    every = plan(SEEDS, None, [], seed_images=True).keys
    files = find_answers(images, _files(chosen.keys), _files(every), size=size)
    judges = _judges(settings, own_device())
    eyes = Eyes.open(settings, judges.object, size, chosen.keys)
    stamp = _stamp(chosen, settings, judges, size, None) | eyes.stamp
    file = _free_file(folder, stamp, targets)
    known = _known(reference, stamp, chosen) if reference else None
    seen = [pair for part in read_in_parts(files) for pair in judges.see(part)]
    labels = dict(zip(chosen.keys, seen, strict=True))
    kept, by_key = chosen.without(targets), dict(zip(chosen.keys, files, strict=True))
    before = _at(reference / "images" / NAME, kept) if reference else None
    beside = quality(eyes, kept, [by_key[key] for key in kept], before)
    return _record(file, labels, known, chosen, targets, beside, stamp)


def _free_file(
    folder: Path, stamp: dict[str, Any], targets: Sequence[Target], *, is_own: bool = True
) -> Path:
    names = [target.name for target in targets]
    return free_file(folder, stamp, names, usual=SEEDS, subset=stamp["subset"], is_own=is_own)


def _files(keys: Sequence[Key]) -> list[str]:
    return [shot.file for shot in shots(keys)]


def _at(place: Path, keys: Sequence[Key]) -> list[Path] | None:
    """The images of these keys in a folder, or None unless all are there."""
    files = [place / name for name in _files(keys)]
    return files if all(file.is_file() for file in files) else None


def _judges(settings: UnlearnCanvasSettings, device: torch.device | str) -> Judges:
    return Judges.load(
        settings.judge_style,
        settings.judge_object,
        architecture=settings.judge_architecture,
        device=device,
    )


def _drawn(
    model: DiffusionModel, chosen: Plan, place: Path, judges: Judges, stamp: dict[str, Any]
) -> Labels:
    """Draw what is missing in `place`, and judge everything, a part at a time."""
    noted = {key: stamp[key] for key in ("noise", "seed_prompt")}
    steps, guidance, side = stamp["steps"], stamp["guidance"], stamp["resolution"]
    noise = RunningNoise(model, steps) if stamp["noise"] == "run-on" else own_noise
    photo = "Photo" if stamp["seed_prompt"] == "photo" else "Seed Images"
    labels: Labels = {}
    for start in range(0, len(chosen.keys), IN_MEMORY):
        part = chosen.keys[start : start + IN_MEMORY]
        images = draw(
            model, shots(part, photo=photo), place, steps=steps, guidance=guidance, noise=noise,
            batch_size=max(1, 4096 // side),  # 8 at 512 px, where the decoder takes most memory
            noted=noted,
        )  # fmt: skip
        labels |= zip(part, judges.see(images), strict=True)
    return labels


def _stamp(
    chosen: Plan, settings: UnlearnCanvasSettings, judges: Judges, side: int, how: Sampling | None
) -> dict[str, Any]:
    """Everything that made the number; what is not known of images that others drew is None."""
    return {
        "protocol": NAME,
        "images": len(chosen.keys),
        "seeds": sorted({seed for seed, _ in chosen.keys}),
        "subset": chosen.subset,
        "scheduler": how and how.scheduler,
        "steps": how and how.steps,
        "guidance": how and how.guidance,
        "noise": how and settings.noise,
        "seed_prompt": how and settings.seed_prompt,
        "resolution": side,
        "seed_images": settings.seed_images,
        "target_in_cra": settings.target_in_cra,
        "judge": judges.stamp,
        "UA": "counts any erased target of the same domain",
        "CRA_target": "images that ask for one erased target alone",
        "versions": {
            name: version(name) for name in ("torch", "diffusers", "timm", "erasure-toolkit")
        },
    }


def _known(reference: Path, stamp: dict[str, Any], chosen: Plan) -> Labels:
    """An un-erased model's labels from its own evaluation, if it was drawn and judged alike."""
    files = sorted((reference / "scores").glob(f"{NAME}*.json"))
    remedy = "judge the un-erased model again"
    records = [read_record(file, LabelsShape, remedy=remedy) for file in files]
    if not records:
        raise SettingError(f"reference must be an evaluated model's folder; {reference} is none.")
    records = [record for record in records if not record.get("per_concept")]
    if not records:
        raise SettingError(f"reference must be an un-erased model's; {reference} is a run's.")
    wanted = set(chosen.keys)
    for record in records:
        there = record.get("stamp", {})
        labels = {(seed, place): (name, theme) for seed, place, name, theme in record["labels"]}
        if wanted <= labels.keys():
            break
    else:
        raise SettingError(f"reference {reference} lacks some of these images; judge it on all.")
    for key in ("resolution", "judge", "scheduler", "steps", "guidance", "noise", "seed_prompt"):
        if None not in (stamp[key], there.get(key)) and stamp[key] != there[key]:
            raise SettingError(
                f"reference {reference} differs in {key}: {there[key]}, not {stamp[key]}."
            )
    return labels


def _record(
    file: Path, labels: Labels, known: Labels | None, chosen: Plan, targets: list[Target],
    beside: tuple[dict[str, Score], dict[str, Score]], stamp: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Write and return the record; `beside` are scores that are no label's, and the baseline's."""
    crossed = stamp["target_in_cra"]
    scores, per_target = score(labels, chosen, targets, target_in_cra=crossed)
    before = score(known, chosen, targets, target_in_cra=crossed)[0] if known else {}
    wanted: dict[str, str] = dict.fromkeys(("IRA", "CRA"), "every image asks for a target") | {
        "FID": "it needs more images than features, and others to compare with",
        "KID": "it needs two seeds of 11 prompts, and images to compare with",
    }
    return write_record(
        file, NAME if chosen.subset is None else f"{NAME}-subset", scores | beside[0], per_target,
        before | beside[1], wanted, cost=_cost(file.parents[1]), stamp=stamp,
        labels=[[*key, *labels[key]] for key in chosen.keys],
    )  # fmt: skip


def _cost(run: Path) -> dict[str, float]:
    """What the erasure took: seconds, peak memory, and the disk that its edit needs, in GB."""
    told, edit = run_record(run), run / "edit.safetensors"
    known = {key: told.get(key) for key in ("seconds", "peak_memory_gb")}
    cost = {key: value for key, value in known.items() if value is not None}
    if edit.is_file():
        cost["storage_gb"] = round(edit.stat().st_size / 1e9, 4)
    return cost


@PROTOCOLS.register
class UnlearnCanvas(Protocol):
    """The benchmark's protocol."""

    takes: ClassVar[frozenset[Option]] = frozenset({"seeds", "subset", "reference"})
    settings: ClassVar[type | None] = UnlearnCanvasSettings

    def evaluate(self, asked: Asked) -> dict[str, Any]:
        settings, _ = resolve(UnlearnCanvasSettings, given=asked.settings, quick=False, presets={})
        seeds = SEEDS if asked.seeds is None else asked.seeds
        if asked.model is None:
            if asked.images is None:
                raise SettingError(f"the protocol {NAME} needs a model or images.")
            return evaluate_images(
                asked.images, asked.folder, concepts=asked.concepts, settings=settings, seeds=seeds,
                subset=asked.subset, reference=asked.reference,
            )  # fmt: skip
        if others := [concept.name for concept in asked.also_erased]:
            warnings.warn(
                f"the run erased {' and '.join(others)}, too: what asks for that counts as kept "
                "here. Leave --concept out to judge all of them.",
                DataWarning,
                stacklevel=2,
            )
        return evaluate(
            asked.model, asked.folder, concepts=asked.concepts, settings=settings, seeds=seeds,
            subset=asked.subset, sampling=asked.sampling, reference=asked.reference,
            is_own=asked.is_own, given=asked.settings,
        )  # fmt: skip
