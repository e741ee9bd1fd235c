"""Hand an edited model back: a full diffusers folder, its text encoder, or the small delta."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from erasure.cards import model_card
from erasure.edit import Edit
from erasure.errors import EditError, ModelError, SettingError
from erasure.models.latent_diffusion import LatentDiffusion
from erasure.models.load_vit import save_vit
from erasure.opening import open_run, open_vit
from erasure.storage import atomic, write_json

Form = Literal["diffusers", "text-encoder", "delta", "lora", "vit"]
FORMS: tuple[Form, ...] = get_args(Form)
DTYPES = {"float32": torch.float32, "float16": torch.float16}


def export(run: Path, out: Path, *, to: Form = "diffusers", dtype: str = "float32") -> Path:
    """Write a run's result to `out`, a new folder, which appears whole or not at all.

    `to`: "diffusers" for a folder that diffusers opens, "text-encoder" for one that
    CLIPTextModel opens, or two in it of a model that has two (EditError if the edit changes
    anything else), "delta" for the changed
    tensors alone, "lora" for one file per request that diffusers' load_lora_weights or peft opens,
    "vit" for a classifier's folder that its own library opens.
    """
    if to not in FORMS:
        raise SettingError(f"to must be one of {', '.join(FORMS)}; got {to!r}.")
    if dtype not in DTYPES:
        raise SettingError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")
    if out.exists():
        raise SettingError(f"out must be a new folder; {out} exists.")
    edit = Edit.load(run)
    is_vit = edit.is_of_classes
    if is_vit != (to == "vit") and to not in ("delta", "lora"):
        fitting = "vit, lora or delta" if is_vit else "diffusers, text-encoder, lora or delta"
        raise SettingError(f"to must be {fitting} for {run}; got {to!r}.")
    if to == "lora":
        return _export_lora(run, out, edit)
    if to == "vit":
        model = open_vit(run)
        with atomic(out) as temporary:
            save_vit(model, temporary)
            (temporary / "README.md").write_text(model_card(run, edit, to))
        return out
    if to == "delta":
        with atomic(out) as temporary:
            edit.save(temporary)
            (temporary / "README.md").write_text(model_card(run, edit, to))
        return out
    if to == "text-encoder":
        elsewhere = [name for name in edit.tensors if not name.startswith("text_encoder")]
        if elsewhere:
            raise EditError(
                f"{edit.method} changed {elsewhere[0]} and {len(elsewhere) - 1} other tensors "
                "outside the text encoder; export to diffusers or delta."
            )
        model = open_run(run)
        with atomic(out) as temporary:
            for tower in model.towers:  # a single one is the folder itself
                place = temporary / tower if len(model.towers) > 1 else temporary
                getattr(model.pipeline, tower).to(DTYPES[dtype]).save_pretrained(place)
                _rename_for_publishing(place)
            (temporary / "README.md").write_text(model_card(run, edit, to, model))
        return out
    model = open_run(run)
    with atomic(out) as temporary:
        save_model(model, temporary, DTYPES[dtype])
        (temporary / "README.md").write_text(model_card(run, edit, to, model))
    return out


def _export_lora(run: Path, out: Path, edit: Edit) -> Path:
    """One file (or peft folder, of a classifier) per request, named after what it takes away."""
    if edit.form != "lora":
        raise EditError(f"{edit.method} made no adapters; export to diffusers, vit or delta.")
    with atomic(out) as temporary:
        temporary.mkdir(parents=True, exist_ok=True)
        for request, names in edit.requests.items():
            place = temporary / "-".join(name.replace(" ", "_") for name in names)
            if edit.is_of_classes:
                _write_peft(edit.adapter(request), dict(edit.settings), place)
            else:
                file = place.with_name(place.name + ".safetensors")
                _write_diffusers_lora(edit.adapter(request), dict(edit.settings), file)
        (temporary / "README.md").write_text(model_card(run, edit, "lora"))
    return out


def _write_diffusers_lora(
    tensors: dict[str, torch.Tensor], settings: dict[str, Any], file: Path
) -> None:
    """An adapter by the names that `load_lora_weights` reads, rank and alpha in the metadata."""
    targets = sorted({name.split(".lora_")[0].removeprefix("unet.") for name in tensors})
    config = {"r": settings["rank"], "lora_alpha": settings["alpha"], "target_modules": targets}
    known = json.dumps({f"unet.{key}": value for key, value in config.items()})
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(plain, file, {"format": "pt", "lora_adapter_metadata": known})


def _write_peft(tensors: dict[str, torch.Tensor], settings: dict[str, Any], folder: Path) -> None:
    """An adapter as a folder that peft's PeftModel.from_pretrained opens."""
    targets = sorted({name.split(".lora_")[0] for name in tensors})
    LoraConfig(
        r=settings["rank"],
        lora_alpha=settings["alpha"],
        target_modules=targets,
    ).save_pretrained(str(folder))
    plain = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(plain, folder / "adapter_model.safetensors", {"format": "pt"})


def save_model(model: LatentDiffusion, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a diffusers folder, with what this toolkit knows of the model beside it."""
    pipeline = model.pipeline
    if dtype == torch.float16:
        for part in ("unet", "vae", *model.towers):
            getattr(pipeline, part).half()
    pipeline.save_pretrained(folder, safe_serialization=True)
    for tower in model.towers:
        _rename_for_publishing(folder / tower)
    if not any((folder / "unet").glob("*.safetensors")):
        raise ModelError(f"{folder} was written without UNet weights.")
    for name in ("concepts.json", "presets.json"):
        if model.folder and (model.folder / name).is_file():
            shutil.copy(model.folder / name, folder / name)
    if model.sampling:
        write_json(folder / "sampling.json", asdict(model.sampling))


def _rename_for_publishing(encoder: Path) -> None:
    """Name a saved text encoder's tensors `text_model.…`, as published folders and old tools do."""
    config = json.loads((encoder / "config.json").read_text())
    # diffusers loads the UNet as float32 whatever its file holds; transformers goes by this word
    config["dtype"] = "float32"
    (encoder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for file in encoder.glob("*.safetensors"):
        tensors = load_file(file)
        if not any(name.startswith("text_model.") for name in tensors):
            tensors = {
                name if name.startswith("text_projection") else f"text_model.{name}": tensor
                for name, tensor in tensors.items()
            }
            save_file(tensors, file, {"format": "pt"})
