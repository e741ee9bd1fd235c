"""The protocol `prompts`: any concept, by prompts of a file or of its kind, judged zero-shot.

For concepts that are in no benchmark. Drawn are prompts that ask for the concept, prompts of near
neighbours, which an erasure breaks first, and prompts of what must stay: by the edited model, and
by the un-erased one from the same noise. What each score is: evaluation/prompts/looking.py.

By default a CLIP judges: an image shows the concept if of the sentences about it, its anchor, its
neighbours and, unless these were given, everyday names, that about the concept is nearest. A score
that nothing at hand can give is left out, with the reason.
"""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from erasure.config import resolve
from erasure.errors import SettingError
from erasure.models.diffusion.model import DiffusionModel, Sampling
from erasure.registry import PROTOCOLS
from erasure_datasets.concept import Concept
from erasure_datasets.prompt_files import LISTS
from evaluation.attacking.asked import check_numbers, contents
from evaluation.attacking.scene import sampling_of
from evaluation.drawing.generate import draw
from evaluation.drawing.sampling import asked_sampling
from evaluation.pictures import drawn_before_and_after
from evaluation.prompts.looking import (
    Eyes,
    Seen,
    beside_unerased,
    by_neighbour,
    open_eyes,
    scores_of,
    told,
)
from evaluation.prompts.neighbours import NONE
from evaluation.prompts.plan import SEEDS, Row, concept_lines, keep_lines, plan
from evaluation.prompts.settings import PromptsSettings
from evaluation.protocols import Asked, Option, Protocol
from evaluation.score import plain
from evaluation.scored import free_file, write_record

NAME = "prompts"
IN_MEMORY = 64  # images of each model that are held at once


@PROTOCOLS.register
class Prompts(Protocol):
    """Prompts of any kind."""

    takes: ClassVar[frozenset[Option]] = frozenset({"seeds"})
    settings: ClassVar[type | None] = PromptsSettings

    def evaluate(self, asked: Asked) -> dict[str, Any]:
        if asked.model is None:
            raise SettingError(f"the protocol {NAME} draws its own images; name a run or a model.")
        settings, _ = resolve(PromptsSettings, given=asked.settings, quick=False, presets={})
        seeds = SEEDS if asked.seeds is None else tuple(asked.seeds)
        check_numbers(1, seeds, None, 0)
        targets = _targets(asked)
        if not targets:
            _refuse_without_target(settings)
        model = asked.model
        how = asked_sampling(sampling_of(model, asked.sampling), model, asked.settings)
        kept = keep_lines(settings.keep_prompts, asked.erased, settings.keep)
        lines = concept_lines(targets, settings.prompts)
        model.use_scheduler(how.scheduler)
        model.use_resolution(settings.resolution or model.resolution)
        eyes, near = open_eyes(settings, model, asked.erased)
        rows = _once(plan(lines, near, targets, kept, seeds))
        model.warn_beyond(list(dict.fromkeys(row.shot.prompt for row in rows)), "prompts")
        clip = eyes.clip.name if eyes.clip else ""
        stamp = _stamp(settings, seeds, how, model, len(kept), clip)
        names = [target.name for target in targets]
        file = free_file(asked.folder, stamp, names, usual=SEEDS, is_own=asked.is_own)
        record = _judged(file, model, rows, eyes, names, how, stamp, len(asked.erased) > 1)
        for target in targets:
            drawn_before_and_after(asked.folder, NAME, rows, target.name)
        return record


def _targets(asked: Asked) -> list[Concept]:
    """Those of the run's concepts that are asked for; SettingError for a name that it lacks."""
    own = {concept.name.casefold(): concept for concept in asked.erased}
    unknown = next((name for name in asked.concepts if name.casefold() not in own), None)
    if unknown is not None:
        raise SettingError(
            f"concept must be one that the run erased; got {unknown!r}. "
            f"Known: {', '.join(concept.name for concept in asked.erased)}."
        )
    return [own[name.casefold()] for name in asked.concepts]


def _refuse_without_target(settings: PromptsSettings) -> None:
    """SettingError for what asks about an erased concept, where none is erased."""
    for name in ("prompts", "neighbours", "criterion"):
        value = getattr(settings, name)
        if value and value != NONE:
            raise SettingError(
                f"{name} asks about an erased concept, and an un-erased model has none; "
                f"leave {name} {value!r} out. A run's scores have the un-erased model's beside."
            )


def _once(rows: Sequence[Row]) -> list[Row]:
    """Without what two concepts share: a neighbour of both."""
    return list({row.shot.file: row for row in reversed(rows)}.values())[::-1]


def _judged(
    file: Path, model: DiffusionModel, rows: Sequence[Row], eyes: Eyes, names: Sequence[str],
    how: Sampling, stamp: dict[str, Any], several: bool,
) -> dict[str, Any]:  # fmt: skip
    """Draw and look, a part at a time; write the record and return it."""
    place = file.parents[1] / "images" / NAME
    after, before, moved = list[Seen](), list[Seen](), list[dict[str, float]]()
    for start in range(0, len(rows), IN_MEMORY):
        part = rows[start : start + IN_MEMORY]
        images = _drawn(model, part, place, how)
        after += eyes.look(part, images)
        if names:
            base = _drawn(model, part, place.with_name(f"{NAME}-base"), how, edited=False)
            before += eyes.look(part, base)
            moved += eyes.moved(part, images, base)
    scores, per_concept = scores_of(rows, after, names, several=several)
    baseline = scores_of(rows, before, names, several=several)[0] if before else {}
    if before:
        scores |= beside_unerased(rows, after, before, moved)
    wanted = dict.fromkeys(("FID", "KID"), "it needs more images: for FID more than features, for "
                           "KID two seeds of 11 prompts") | dict(eyes.left_out)  # fmt: skip
    if not names:
        wanted = {key: why for key, why in wanted.items() if key == "CLIP"}
    near = {
        when: plain(by_neighbour(rows, seen))
        for when, seen in (("after", after), ("before", before))
        if seen
    }
    return write_record(
        file, NAME, scores, per_concept, baseline, wanted, neighbours=near, stamp=stamp,
        criteria={name: criterion.name for name, criterion in eyes.criteria.items()},
        images=told(rows, after, moved or [{}] * len(rows)),
    )  # fmt: skip


def _drawn(
    model: DiffusionModel, rows: Sequence[Row], place: Path, how: Sampling, *, edited: bool = True
) -> Tensor:
    shots = [row.shot for row in rows]
    with nullcontext() if edited else model.without_edit():
        return draw(model, shots, place, steps=how.steps, guidance=how.guidance)


def _stamp(
    settings: PromptsSettings, seeds: Sequence[int], how: Sampling, model: DiffusionModel,
    kept: int, clip: str,
) -> dict[str, Any]:  # fmt: skip
    """Everything that made the numbers but the concept; files by what is in them."""

    def source(text: str) -> str:
        if not text or text in LISTS:
            return text or "the concept's templates and the general wordings of its kind"
        return f"sha256 {hashlib.sha256(Path(text).expanduser().read_bytes()).hexdigest()[:16]}"

    words = settings.criterion or (f"clip={clip}" if clip else "none")
    return {
        "protocol": NAME,
        "seeds": list(seeds),
        "prompts": source(settings.prompts),
        "keep_prompts": source(settings.keep_prompts),
        "kept": kept,
        "neighbours": settings.neighbours or "nearest of the built-in lists",
        **asdict(how),
        "resolution": model.resolution,
        "criterion": words,
        "files": list(contents(f"{words}+clip={clip}" if clip else words, {}).values()),
        "clip": clip or "none",
        "features": settings.features,
        "perceptual": settings.perceptual,
        "reference": "the un-erased model's images of the same noise",
        "UA": "counts any erased concept",
        "versions": {
            name: version(name)
            for name in ("torch", "diffusers", "open_clip_torch", "erasure-toolkit")
        },
    }
