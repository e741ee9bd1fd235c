"""What every method must do on every model it supports: one table, no skip list."""

import shutil
from dataclasses import dataclass, fields
from pathlib import Path

from safetensors.torch import load_file, save_file

from erasure.config import Value
from erasure.erasing import Result, erase
from erasure.registry import METHODS

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
    "esd": {"steps": 6, "batch_size": 2, "learning_rate": 1e-3, "paths": 2, "sampling_steps": 3},
    "uce": {},
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
SELECTED_OF_SD3 = {**SELECTED, "uce": "text.in,pooled.in"}
# methods that say in one line that they do not work on a family
REFUSED = {("sfd", "sdxl"), ("sfd", "sd3")}
# on top of pocket's presets, for those methods that have these settings
POCKET_FEW: dict[str, Value] = {
    "steps": 6,
    "forget_images": 8,
    "retain_images": 24,
    "paths": 4,
    "sampling_steps": 8,
    "warmup": 2,
    "group_warmup": 2,
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
        return erase(
            str(self.model),
            self.method,
            [self.concept],
            out=out,
            kind="object",
            anchor="dog",
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


def every_method() -> list[str]:
    names = METHODS.names("diffusion")
    missing = set(names) - set(TINY)
    assert not missing, f"tests/contract.py has no tiny settings for {missing}"
    return names


def settings_of(method: str) -> set[str]:
    """The names of a method's settings."""
    return {field.name for field in fields(METHODS.get("diffusion", method))}
