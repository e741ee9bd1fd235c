"""Hand an edited model back: a whole folder, its text encoders, its adapters, or the delta."""

import os
from pathlib import Path
from typing import Any

from erasure.edit import Edit
from erasure.errors import EditError, SettingError
from erasure.exports.cards import model_card
from erasure.exports.forms import Form
from erasure.exports.rounding import rounded, warn_of_rounding
from erasure.exports.writing.publishing import DTYPES, clean_configs
from erasure.files.naming import checked_path
from erasure.files.storage import atomic
from erasure.opening import open_classifier, open_run
from erasure.registry import EXPORTS
from erasure.training.progress import waiting
from erasure.training.run_folder import refuse_inside


def export(
    run: Path | str, out: Path | str, *, to: str = "diffusers", dtype: str = "float32",
    base: Path | str | None = None, layout: str | None = None,
) -> Path:  # fmt: skip
    """Write a run's result to `out`, a new folder, which appears whole or not at all.

    `to`: "diffusers" for a folder that diffusers opens; "single-file" for one .safetensors by the
    original releases' names, with its configs beside it (SD 1.x, 2.x and XL); "text-encoder" for a
    folder that CLIPTextModel opens, with one subfolder per text encoder if the model has several
    (EditError if the edit changes anything else); "lora" for one file per request that diffusers'
    load_lora_weights or peft opens; "delta" for the changed tensors alone; "vit" for a classifier's
    folder that its own library opens; or a plug-in's form. Weights are stored as `dtype`: float32,
    float16 or bfloat16; SettingError for a value beyond its range, ModelError for one that is not
    finite, and a DataWarning if the rounding moves the edited weights further than the edit did.
    `base`: as for `open_run`. `layout`: whose names the tensors of "lora" have, "diffusers" (the
    default) or "kohya", which A1111 and ComfyUI read.
    """
    run, out, form = checked_path(run, "run"), checked_path(out, "out"), _form(to, layout)
    if dtype not in DTYPES:
        raise SettingError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")
    if os.path.lexists(out):
        raise SettingError(f"out must be a new folder; {out} exists.")
    refuse_inside(out)
    edit = Edit.load(run)
    _refuse_form(run, edit, form)
    model: Any = None
    if form.opens():
        model = (open_classifier if edit.is_of_classifier else open_run)(run, base=base)
    elif base is not None:
        raise SettingError(f"base is not needed for {to}, which holds the edit alone.")
    card = model_card(run, edit, form, model)
    # writing rounds the model itself; an adapter's factors round by their own size
    times = 0.0 if form.is_adapter else rounded(edit, model, DTYPES[dtype])
    with atomic(out) as temporary, waiting(f"writing {out.name}"):
        temporary.mkdir(parents=True, exist_ok=True)
        form.write(edit, model, temporary, DTYPES[dtype])
        clean_configs(temporary, edit.base)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    warn_of_rounding(times, DTYPES[dtype])
    return out


def _form(name: str, layout: str | None) -> Form:
    """SettingError for a layout that the form does not have."""
    kind = EXPORTS.get(name)
    if layout is None:
        return kind()
    if layout not in kind.layouts:
        known = " or ".join(kind.layouts)
        raise SettingError(
            f"layout of {name} must be {known}; got {layout!r}." if known
            else f"layout is of lora alone, and {name} has but one; got {layout!r}."
        )  # fmt: skip
    return kind(layout)


def _refuse_form(run: Path, edit: Edit, form: Form) -> None:
    """EditError for a form that this edit cannot take; it says why, and which it can."""
    why = _refusal(run, edit, form)
    if why:
        forms = [EXPORTS.get(name)() for name in EXPORTS.names()]
        fitting = [other.name for other in forms if not _refusal(run, edit, other)]
        raise EditError(f"{why}; export to {', '.join(fitting[:-1])} or {fitting[-1]}.")


def _refusal(run: Path, edit: Edit, form: Form) -> str:
    own = "classifier" if edit.is_of_classifier else "pipeline"
    if form.of not in ("edit", own):
        return f"{form.name} is of a {form.of}, and {run} edits a {own}"
    return form.refusal(edit)
