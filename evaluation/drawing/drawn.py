"""What a folder of drawn images says of them: which weights drew them, and how."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from erasure.errors import RunError
from erasure.files.records import read_record
from erasure.files.storage import file_digest, write_json
from erasure.models.diffusion.model import DiffusionModel
from erasure.training.processes import launched
from erasure_datasets.images import find_images

CLAIM = "drawn.json"
SAMPLED = 256  # numbers of each weight that tell two models apart


def edit_digest(run: Path) -> str | None:
    """What tells a run's edit from any other; None where there is none."""
    record, tensors = run / "edit.json", run / "edit.safetensors"
    if not record.is_file():
        return None
    told = read_record(record, dict[str, Any]).get("digest")
    if isinstance(told, str) and told:
        return told
    return file_digest(tensors) if tensors.is_file() else None


def how_drawn(
    model: DiffusionModel, folder: Path, *, steps: int, guidance: float
) -> dict[str, Any]:
    """All that decides what a model draws into a run's images/NAME, but for prompts and noise.

    `weights` is the un-erased model's fingerprint, `edit` the digest of the run's edit, or None
    while the model is asked without it.
    """
    scheduler = getattr(getattr(model, "pipeline", None), "scheduler", None)
    return {
        "scheduler": type(scheduler).__name__,
        "steps": steps,
        "guidance": guidance,
        "resolution": model.resolution,
        "weights": _fingerprint(model),
        "edit": (edit_digest(_run_of(folder)) or _values(model)) if _is_edited(model) else None,
    }


def claim_folder(folder: Path, asked: Mapping[str, Any]) -> None:
    """Note how a folder's images are drawn; RunError if it holds images drawn otherwise.

    The note is written before the first image, so that images without one, or with half of one,
    may be anybody's: they are refused. All processes of a launch must call this; they meet in it.
    """
    file = folder / CLAIM
    remedy = "remove the folder, or ask for the same again"
    held = read_record(file, dict[str, Any], remedy=remedy) if file.is_file() else {}
    for key, value in asked.items():
        if key in held and held[key] != value:
            raise RunError(
                f"{folder} holds images of {_another(key)} ({held[key]}, not {value}); {remedy}."
            )
    if asked.keys() - held.keys():
        if find_images(folder):
            raise RunError(
                f"{folder} holds images and no full {CLAIM} on how they were drawn; remove the "
                "folder, and they are drawn again."
            )
        if launched().is_main_process:
            write_json(file, held | {**asked})
    launched().wait_for_everyone()


def is_older(file: Path, run: Path) -> bool:
    """Whether a file was there before the run's edit."""
    edit = run / "edit.safetensors"
    return edit.is_file() and file.stat().st_mtime < edit.stat().st_mtime


def _run_of(folder: Path) -> Path:
    return folder.absolute().parents[1]


def _another(key: str) -> str:
    if key == "weights":
        return "another base model"
    return f"{'other' if key.endswith('s') else 'another'} {key}"


def _is_edited(model: DiffusionModel) -> bool:
    current = model.parameters()
    return any(
        not torch.equal(current[name].detach().cpu(), original)
        for name, original in model.originals.items()
    )


def _values(model: DiffusionModel) -> str:
    """A digest of the edited weights, for an edit that no folder holds."""
    found, current = hashlib.sha256(), model.parameters()
    for name in sorted(model.originals):
        found.update(current[name].detach().float().cpu().numpy().tobytes())
    return found.hexdigest()


def _fingerprint(model: DiffusionModel) -> str:
    """A digest of some numbers of every weight of the model from before the edit."""
    found = hashlib.sha256()
    for name, part in _samples(model):
        found.update(name.encode() + part.float().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


@torch.no_grad()
def _samples(model: DiffusionModel) -> Iterator[tuple[str, torch.Tensor]]:
    decoder = getattr(getattr(model, "pipeline", None), "vae", None)
    weights = model.parameters() | dict(decoder.named_parameters("vae") if decoder else ())
    for name, weight in sorted(weights.items()):
        flat = model.originals.get(name, weight).detach().flatten()
        yield name, flat[:: -(-len(flat) // SAMPLED)]
