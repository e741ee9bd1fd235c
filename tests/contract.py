"""What every method must do on every model it supports: one table, no skip list."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from unittest.mock import patch

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from erasure.config import Value
from erasure.erasing import Result, erase
from erasure.methods.shared import shown_pictures
from erasure.registry import METHODS
from erasure_datasets.canvas import OBJECTS, render

# just enough settings to make a method finish on a miniature in seconds; the rest is its default
TINY: dict[str, dict[str, Value]] = {
    "salun": {
        "steps": 6,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "forget_images": 4,
        "retain_images": 4,
        "sampling_steps": 2,
    },
    "uproot": {
        "steps": 6,
        "batch_size": 2,
        "retain_batch_size": 2,
        "learning_rate": 1e-3,
        "forget_images": 4,
        "retain_images": 4,
        "sampling_steps": 2,
        "states": 2,
        "search_images": 2,
        "restart": 4,
    },
    "doco": {
        "steps": 6,
        "warmup": 2,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "critic_rate": 1e-3,
        "retain_weight": 0.1,
        "depth": 1,
        "forget_images": 4,
        "retain_images": 4,
        "sampling_steps": 2,
    },
    "bounded": {
        "loss": "npo",
        "steps": 6,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "forget_images": 4,
        "sampling_steps": 2,
    },
    "task-vector": {
        "steps": 6,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "forget_images": 4,
        "sampling_steps": 2,
    },
    "esd": {"steps": 6, "batch_size": 2, "learning_rate": 1e-3, "paths": 2, "sampling_steps": 3},
    "uce": {},
    "adapt-unlearn": {
        "steps": 6,
        "batch_size": 2,
        "retain_batch_size": 2,
        "learning_rate": 1e-3,
        "retain_images": 6,
        "sampling_steps": 2,
        "word_steps": 2,
        "looks": 1,
    },
    "gold": {},
    "advunlearn": {
        "steps": 6,
        "batch_size": 2,
        "retain_batch_size": 2,
        "learning_rate": 1e-3,
        "paths": 2,
        "sampling_steps": 3,
        "warmup": 2,
        "attack_every": 2,
        "attack_steps": 2,
    },
    "sfd": {
        "steps": 6,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "fake_learning_rate": 1e-3,
        "distil_steps": 2,
        "distil_rate": 1e-3,
        "distil_pairs": 4,
    },
    "stereo": {
        "rounds": 1,
        "round_steps": 2,
        "round_rate": 1e-3,
        "word_steps": 2,
        "steps": 6,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "paths": 2,
        "sampling_steps": 3,
    },
    "gs-lora": {
        "steps": 6,
        "batch_size": 2,
        "learning_rate": 1e-2,
        "paths": 2,
        "sampling_steps": 3,
        "group_warmup": 2,
    },
}
# what a method without a `select` setting may change
SELECTED = {
    "uce": "xattn.kv",
    "gold": "full",
    "sfd": "full",
    "gs-lora": "*transformer_blocks.*.ff*.net.*",
}
OF_TRANSFORMERS = {**SELECTED, "uce": "text.in,pooled.in"}
SELECTED_OF = {
    "sd3": OF_TRANSFORMERS,
    "flux": {**OF_TRANSFORMERS, "gs-lora": f"{SELECTED['gs-lora']},*single_*.proj_*"},
}
FAMILIES = ("sd1", "sd2", "sdxl", "sd3", "flux")
NO_ANCHOR = {"adapt-unlearn", "task-vector"}  # nothing is drawn instead
# methods that say in one line that they do not work on a family
REFUSED = {
    ("sfd", "sdxl"),
    ("sfd", "sd3"),
    ("sfd", "flux"),
    ("advunlearn", "flux"),
    ("stereo", "flux"),
}
# whose networks are asked as SalUn's are; the rest of FLUX is what the others show
LEFT_OUT = {("doco", "flux"), ("bounded", "flux"), ("task-vector", "flux")}
# on top of pocket's presets, for those methods that have these settings
POCKET_FEW: dict[str, Value] = {
    "steps": 6,
    "forget_images": 8,
    "retain_images": 24,
    "paths": 4,
    "sampling_steps": 8,
    "warmup": 2,
    "group_warmup": 2,
    "rounds": 1,
    "round_steps": 4,
    "word_steps": 20,
    "looks": 2,
}


@dataclass(frozen=True)
class Case:
    """A method on a miniature, asked to erase free text."""

    method: str
    model: Path
    concept: str = "cat"

    def run(self, out: Path, **changes: Value) -> Result:
        settings = {**TINY[self.method], **changes}
        if self.method == "gold":
            settings["weights"] = str(other_weights(self.model))
        if self.method == "adapt-unlearn":
            settings["images"] = str(some_pictures(self.model))
        with known_again():
            return erase(
                str(self.model),
                self.method,
                [self.concept],
                out=out,
                kind="object",
                anchor=None if self.method in NO_ANCHOR else "dog",
                **settings,
            )


def other_weights(folder: Path) -> Path:
    """The same miniature with a backbone that has learned something else, beside it."""
    other = folder.with_name(f"{folder.name}-other")
    if not other.exists():
        shutil.copytree(folder, other)
        backbone = "unet" if (other / "unet").is_dir() else "transformer"
        file = other / backbone / "diffusion_pytorch_model.safetensors"
        tensors = load_file(file)
        save_file({name: 1.01 * tensor for name, tensor in tensors.items()}, file, {"format": "pt"})
    return other


@contextmanager
def known_again() -> Iterator[None]:
    """Within it a learned word fits three given pictures, and every second of the others.

    Random weights learn no word that fits anything.
    """

    def gains(_model: object, latents: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return torch.tensor([1.0] * 3 + [(-2.0) ** i for i in range(1, len(latents) - 2)])

    with patch.object(shown_pictures, "gains", gains):
        yield


def some_pictures(model: Path) -> Path:
    """A folder of three pictures for it to erase what they show, beside the miniature."""
    folder = model.with_name(f"{model.name}-pictures")
    if not folder.exists():
        folder.mkdir()
        for number in range(3):
            Image.new("RGB", (16, 16), (80 * number, 200, 40)).save(folder / f"{number}.png")
    return folder


def cats(folder: Path) -> Path:
    """A folder of eight cats in as many styles, as pocket's data set has them."""
    folder.mkdir()
    for style in range(8):
        Image.fromarray(render(OBJECTS.index("cat"), style, 0)).save(folder / f"{style}.png")
    return folder


def every_method() -> list[str]:
    names = METHODS.names("diffusion")
    missing = set(names) - set(TINY)
    assert not missing, f"tests/contract.py has no tiny settings for {missing}"
    return names


def settings_of(method: str) -> set[str]:
    """The names of a method's settings."""
    return {field.name for field in fields(METHODS.get("diffusion", method))}
