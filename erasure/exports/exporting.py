"""Hand an edited model back: a whole folder, its text encoders, its adapters, or the delta."""

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch

from erasure.edit import Edit
from erasure.errors import EditError, ModelError, SettingError
from erasure.exports.adapter_files import write_adapters
from erasure.exports.cards import model_card
from erasure.exports.publishing import (
    DTYPES,
    checked,
    clean_configs,
    convert,
    public_name,
    rename_text_encoder,
    without_paths,
    write_vocabulary,
)
from erasure.files.storage import atomic, write_json
from erasure.models.classifier.load import save_classifier
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.opening import open_classifier, open_run

Form = Literal["diffusers", "text-encoder", "delta", "lora", "vit"]
FORMS: tuple[Form, ...] = get_args(Form)


def export(
    run: Path | str, out: Path | str, *, to: Form | str = "diffusers", dtype: str = "float32",
    base: Path | str | None = None,
) -> Path:  # fmt: skip
    """Write a run's result to `out`, a new folder, which appears whole or not at all.

    `to`: "diffusers" for a folder that diffusers opens; "text-encoder" for one that CLIPTextModel
    opens, with one subfolder per text encoder if the model has several (EditError if the edit
    changes anything else); "lora" for one file per request that diffusers' load_lora_weights or
    peft opens; "delta" for the changed tensors alone; "vit" for a classifier's folder that its own
    library opens. Weights are stored as `dtype`: float32, float16 or bfloat16; SettingError for a
    value beyond its range, ModelError for one that is not finite. `base`: as for `open_run`.
    """
    run, out = Path(run), Path(out)
    if to not in FORMS:
        raise SettingError(f"to must be one of {', '.join(FORMS)}; got {to!r}.")
    if dtype not in DTYPES:
        raise SettingError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")
    if os.path.lexists(out):
        raise SettingError(f"out must be a new folder; {out} exists.")
    edit = Edit.load(run)
    _refuse_form(run, edit, to)
    model: Any = None
    if to in ("diffusers", "text-encoder"):
        model = open_run(run, base=base)
    elif to == "vit":
        model = open_classifier(run, base=base)
    elif base is not None:
        raise SettingError(f"base is not needed for {to}, which holds the edit alone.")
    write = _writer(to, edit, model, DTYPES[dtype])
    card = model_card(run, edit, to, model)
    with atomic(out) as temporary:
        temporary.mkdir(parents=True, exist_ok=True)
        write(temporary)
        clean_configs(temporary, edit.base)
        (temporary / "README.md").write_text(card, encoding="utf-8")
    return out


def _refuse_form(run: Path, edit: Edit, to: str) -> None:
    """EditError or SettingError for a form that this edit cannot take; it says which it can."""
    fitting = ["vit"] if edit.is_of_classes else ["diffusers"]
    is_lora = edit.form == "lora"
    names = [name.split(".", 2)[2] if is_lora else name for name in edit.tensors]
    elsewhere = [name for name in names if not name.startswith("text_encoder")]
    if not edit.is_of_classes and not elsewhere:
        fitting.append("text-encoder")
    if is_lora:
        fitting.append("lora")
    fitting.append("delta")
    if to in fitting:
        return
    known = f"{', '.join(fitting[:-1])} or {fitting[-1]}"
    if to == "lora":
        raise EditError(f"{edit.method} made no adapters; export to {known}.")
    if to == "text-encoder" and not edit.is_of_classes:
        raise EditError(
            f"{edit.method} changed {elsewhere[0]} and {len(elsewhere) - 1} other tensors "
            f"outside the text encoder; export to {known}."
        )
    raise SettingError(f"to must be {known} for {run}; got {to!r}.")


def _writer(to: str, edit: Edit, model: Any, dtype: torch.dtype) -> Callable[[Path], object]:
    """What writes this form into a folder."""
    if to == "lora":
        return lambda folder: write_adapters(edit, folder, dtype)
    if to == "delta":
        return lambda folder: _public(edit, dtype).save(folder)
    if to == "vit":
        return lambda folder: save_classifier(model, folder, dtype)
    if to == "text-encoder":
        return lambda folder: _save_encoders(model, folder, dtype)
    return lambda folder: save_model(model, folder, dtype)


def _public(edit: Edit, dtype: torch.dtype) -> Edit:
    """The edit as others may have it: its base by name and digest, no paths in its settings.

    Nor are single images that it forgot named.
    """
    settings = {name: value for name, value in edit.settings.items() if name != "samples"}
    return replace(
        edit,
        tensors=checked(edit.tensors, dtype, f"the edit of {public_name(edit.base)}"),
        base=public_name(edit.base),
        settings=cast(dict[str, object], without_paths(settings)),
    )


def _save_encoders(model: LatentDiffusion, folder: Path, dtype: torch.dtype) -> None:
    for tower in model.towers:  # a single one is the folder itself
        place = folder / tower if len(model.towers) > 1 else folder
        encoder = getattr(model.pipeline, tower)
        convert(encoder, dtype, f"{model.name}'s {tower}")
        encoder.save_pretrained(place)
        rename_text_encoder(place)


def save_model(model: LatentDiffusion, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a diffusers folder, with what this toolkit knows of the model beside it.

    The model itself is brought to `dtype`, if one is given. Errors as of `checked`.
    """
    pipeline = model.pipeline
    for part in ("unet", "vae", *model.towers):
        convert(getattr(pipeline, part), dtype, f"{model.name}'s {part}")
    pipeline.save_pretrained(folder, safe_serialization=True)
    for tower in model.towers:
        rename_text_encoder(folder / tower)
    for tokenizer in model.tokenizers:
        write_vocabulary(getattr(pipeline, tokenizer), folder / tokenizer)
    if not any((folder / "unet").glob("*.safetensors")):
        raise ModelError(f"{folder} was written without UNet weights.")
    for name in ("concepts.json", "presets.json"):
        if model.folder and (model.folder / name).is_file():
            shutil.copy(model.folder / name, folder / name)
    if model.sampling:
        write_json(folder / "sampling.json", asdict(model.sampling))
