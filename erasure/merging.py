"""Put the edits of several runs of one base together, where they do not get in each other's way."""

import hashlib
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import save
from torch import Tensor

from erasure.composing import (
    Effect,
    parts_of,
    refuse_unlike_adapters,
    with_adapters,
    with_weights,
)  # fmt: skip
from erasure.edit import Edit
from erasure.errors import EditError, SettingError
from erasure.files.naming import checked_path
from erasure.files.storage import atomic, write_json
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.opening import lasting_name, open_edit
from erasure.stacking import drawn_as_anchors
from erasure.training.run_folder import refuse_inside, run_record, versions
from erasure_datasets.concept import mentions
from erasure_datasets.errors import DataWarning

Overlap = Literal["refuse", "add"]


def apply(
    runs: Sequence[Path | str], out: Path | str, *, overlap: Overlap = "refuse",
    base: Path | str | None = None,
) -> Path:  # fmt: skip
    """A new run that takes away what each of these took, side by side on their common base.

    No method has seen the others' changes, so that elements which several of them changed are no
    erasure that anybody aimed at: they are refused, or with `overlap="add"` their changes are
    added. Adapters (gs-lora) add by their nature; each stays a request that `undo` gives back.
    `base` says where the base model is now. SettingError or EditError for runs that do not go
    together; then nothing is written.
    """
    places, out = [checked_path(run, "run") for run in runs], checked_path(out, "out")
    if overlap not in get_args(Overlap):
        raise SettingError(f"overlap must be one of {', '.join(get_args(Overlap))}; got {overlap}.")
    if len(places) < 2:
        raise SettingError(f"apply puts two runs or more together; got {len(places)}.")
    if out.exists():
        raise SettingError(f"out must be a new folder; {out} exists.")
    refuse_inside(out)
    edits = [Edit.load(place) for place in places]
    _refuse_unlike(places, edits)
    model, first = open_edit(places[0], edited=False, base=base)
    merged = _merged(model, places, edits, overlap)
    merged = replace(
        merged, base=first.base if base is None else lasting_name(str(base), "base"),
        revision=first.revision if base is None else None,
    )  # fmt: skip
    with atomic(out) as temporary:
        temporary.mkdir(parents=True, exist_ok=True)
        merged.save(temporary)
        write_json(temporary / "config.json", _record(merged, places, overlap))
    return out


def _refuse_unlike(places: Sequence[Path], edits: Sequence[Edit]) -> None:
    """SettingError or EditError for edits that do not go together, whatever they change."""
    for place, edit in zip(places, edits, strict=True):
        if edit.is_of_classifier:
            raise SettingError(f"{place} edits a classifier; apply takes text-to-image models'.")
        if not edit.base_digest:
            raise EditError(f"{place} does not say which weights its base had: erase anew.")
        if edit.base_digest != edits[0].base_digest:
            raise EditError(
                f"{place} was made on {edit.base} and {places[0]} on {edits[0].base}, whose "
                "weights differ; only edits of one base go together."
            )
    _refuse_twice(places, edits)
    for place, edit in zip(places, edits, strict=True):
        _refuse_lost_anchors(place, edit, [other for other in edits if other is not edit])


def _refuse_twice(places: Sequence[Path], edits: Sequence[Edit]) -> None:
    """SettingError for two runs that hold one and the same erasure, whose change would be doubled.

    Of adapters every request is compared; of other edits, what each was made of.
    """
    held = dict[str, Path]()
    for place, edit in zip(places, edits, strict=True):
        own = {edit.digest, *(part["digest"] for part in parts_of(edit))} - {""}
        if edit.form == "lora":
            own |= {_digest_of(edit.adapter(request)) for request in edit.requests}
        for digest in sorted(own & held.keys()):
            raise SettingError(
                f"{place} holds an erasure that {held[digest]} holds, too; it would be added twice."
            )
        held |= dict.fromkeys(own, place)


def _digest_of(adapter: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(save({n: t.contiguous() for n, t in adapter.items()})).hexdigest()


def _refuse_lost_anchors(place: Path, edit: Edit, others: Sequence[Edit]) -> None:
    """SettingError for a concept that is drawn as one that another of the edits takes away."""
    drawn = drawn_as_anchors(edit)
    gone = [concept.name for other in others for concept in other.concepts]
    for concept in edit.concepts:
        lost = next((name for name in gone if mentions(concept.anchor, name)), None)
        if concept.name in drawn and lost is not None:
            raise SettingError(
                f"{place} draws {concept.anchor} for {concept.name}, and {lost} is to be gone; "
                f"erase {concept.name} with another --anchor, or one after the other with "
                "`erasure erase METHOD --model RUN`."
            )


def _merged(
    model: LatentDiffusion, places: Sequence[Path], edits: Sequence[Edit], overlap: Overlap
) -> Edit:
    concepts = {concept.name: concept for edit in edits for concept in edit.concepts}
    methods = list(dict.fromkeys(edit.method for edit in edits))
    told = replace(
        edits[0], concepts=list(concepts.values()), method=" + ".join(methods),
        parts=[part for edit in edits for part in parts_of(edit)],
        sampling=next((edit.sampling for edit in edits if edit.sampling), None),
    )  # fmt: skip
    if all(edit.form == "lora" for edit in edits):
        for edit in edits:
            refuse_unlike_adapters(edits[0].settings, edit.settings)
        shared = _shared(edits)
        _warn_of_sums(shared)
        return with_adapters(told, edits)
    union = _Union([edit.effects() for edit in edits])
    names = dict.fromkeys(name for edit in edits for name in edit.shapes())
    merged = with_weights(
        replace(told, settings={"overlap": overlap}), names, union.change, model.tensors()
    )
    if union.shared and overlap == "refuse":
        first, count = next(iter(union.shared.items()))
        raise EditError(
            f"{' and '.join(map(str, places))} change the same weights: {count} elements of "
            f"{first}, and some of {len(union.shared) - 1} more tensors. The sum of their changes "
            "is no erasure that any of them aimed at: erase one after the other with `erasure "
            "erase METHOD --model RUN`, or have them added with --overlap add."
        )
    _warn_of_sums(union.shared)
    return merged


class _Union:
    """All edits' changes in one tensor after another; `shared` counts elements of several."""

    def __init__(self, effects: Sequence[dict[str, Effect]]) -> None:
        self.effects = effects
        self.shared: dict[str, int] = {}

    def change(self, name: str, whole: Tensor) -> None:
        """Change a base's tensor in place; what several edits change has the sum of the changes."""
        old, touched = whole.clone(), torch.zeros_like(whole, dtype=torch.bool)
        for effects in self.effects:
            if name not in effects:
                continue
            own = old.clone()
            effects[name](own)
            is_own = own != old
            both = is_own & touched
            # to the bit what the only edit of an element says
            whole.copy_(torch.where(is_own, torch.where(both, whole + (own - old), own), whole))
            touched |= is_own
            if count := int(both.sum()):
                self.shared[name] = self.shared.get(name, 0) + count


def _shared(edits: Sequence[Edit]) -> list[str]:
    """The weights that adapters of more than one edit move."""
    names = [name for edit in edits for name in edit.shapes()]
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def _warn_of_sums(shared: Sequence[str] | dict[str, int]) -> None:
    if shared:
        warnings.warn(
            f"{len(shared)} weights, {next(iter(shared))} the first, have the changes of several "
            "runs added, which none of them was made with: judge the result before it is used.",
            DataWarning,
            stacklevel=3,
        )


def _inputs(places: Sequence[Path]) -> dict[str, str]:
    """The digests of what the runs read, of each name on which they agree."""
    told = [run_record(place).get("inputs", {}) for place in places]
    return {
        name: digest
        for one in told
        for name, digest in one.items()
        if all(other.get(name, digest) == digest for other in told)
    }


def _record(edit: Edit, places: Sequence[Path], overlap: Overlap) -> dict[str, object]:
    """What config.json says of it."""
    return {
        "command": shlex.join(sys.argv), "method": "apply", "model": edit.base,
        "revision": edit.revision, "base_digest": edit.base_digest,
        "config": run_record(places[0]).get("config"), "settings": {"overlap": overlap},
        "concepts": [concept.as_json() for concept in edit.concepts], "inputs": _inputs(places),
        "runs": [str(place) for place in places], "versions": versions(),
    }  # fmt: skip
