"""Take a concept out of a text-to-image diffusion model, prove it gone, hand the model back."""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from erasure.comparing.diffing import diff
    from erasure.edit import Edit
    from erasure.erasing import erase
    from erasure.exports.converting import convert
    from erasure.exports.exporting import export
    from erasure.exports.pushing import push
    from erasure.forgetting import forget
    from erasure.from_scratch import train
    from erasure.merging import apply
    from erasure.models.diffusion.load import load_model
    from erasure.opening import open_run
    from erasure.sample_requests import Samples
    from erasure.undoing import undo

_HOMES = {
    "Edit": "erasure.edit",
    "Samples": "erasure.sample_requests",
    "apply": "erasure.merging",
    "convert": "erasure.exports.converting",
    "diff": "erasure.comparing.diffing",
    "erase": "erasure.erasing",
    "export": "erasure.exports.exporting",
    "forget": "erasure.forgetting",
    "load_model": "erasure.models.diffusion.load",
    "open_run": "erasure.opening",
    "push": "erasure.exports.pushing",
    "train": "erasure.from_scratch",
    "undo": "erasure.undoing",
}
__all__ = [
    "Edit", "Samples", "apply", "convert", "diff", "erase", "export", "forget", "load_model",
    "open_run", "push", "train", "undo",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Import on first use, so that `erasure --help` does not wait for torch."""
    if name == "__version__":
        try:
            return version("erasure-toolkit")
        except PackageNotFoundError:
            return "unknown"
    if name not in _HOMES:
        raise AttributeError(f"module 'erasure' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
