"""Take a concept out of a text-to-image diffusion model, prove it gone, hand the model back."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from erasure.edit import Edit
    from erasure.erasing import erase
    from erasure.exporting import export, open_run
    from erasure.models.load import load_model

_HOMES = {
    "Edit": "erasure.edit",
    "erase": "erasure.erasing",
    "export": "erasure.exporting",
    "load_model": "erasure.models.load",
    "open_run": "erasure.exporting",
}
__all__ = ["Edit", "erase", "export", "load_model", "open_run"]


def __getattr__(name: str) -> object:
    """Import on first use, so that `erasure --help` does not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'erasure' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
