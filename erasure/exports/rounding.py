"""How an edit's size compares with the rounding of the weights that hold it."""

import warnings

import torch

from erasure.edit import Edit
from erasure.models.editable import Editable
from erasure_datasets.errors import DataWarning


def rounded(edit: Edit, model: Editable | None, dtype: torch.dtype) -> float:
    """How far rounding to `dtype` moves the edited weights, as a multiple of what the edit did.

    Both are roots of summed squares. Without a model the edit's own tensors are rounded, unchanged
    elements with them; it is 0 then of adapters, whose factors round by their own size, and of an
    edit that does not say how far it moved.
    """
    if dtype == torch.float32 or (model is None and edit.form == "lora"):
        return 0.0
    off, gone = _of_model(model, dtype) if model is not None else _of_edit(edit, dtype)
    return (off / gone) ** 0.5 if gone else 0.0


def warn_of_rounding(times: float, dtype: torch.dtype) -> None:
    """DataWarning for a rounding that moves more than the edit did."""
    if times > 1:
        word = str(dtype).removeprefix("torch.")
        warnings.warn(
            f"rounding to {word} moves the edited weights {times:.1f} times as far as the edit "
            "did: judge what was written before it is used, or choose another dtype.",
            DataWarning,
            stacklevel=3,
        )


def _of_model(model: Editable, dtype: torch.dtype) -> tuple[float, float]:
    """The summed squares of the rounding, and of the edit, over what the edit changed."""
    current, off, gone = model.tensors(), 0.0, 0.0
    for name, old in model.originals.items():
        new, before = current[name].detach().cpu().float(), old.float()
        changed = new != before
        off += float((new.to(dtype).float() - new)[changed].square().sum())
        gone += float((new - before)[changed].square().sum())
    return off, gone


def _of_edit(edit: Edit, dtype: torch.dtype) -> tuple[float, float]:
    values = [tensor for tensor in edit.tensors.values() if tensor.is_floating_point()]
    off = sum(float((value.to(dtype).float() - value).square().sum()) for value in values)
    return off, sum(gone for _, gone, _ in edit.moved.values())
