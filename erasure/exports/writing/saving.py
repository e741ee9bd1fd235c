"""Write a model as a folder that its own library opens."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from erasure.errors import ModelError
from erasure.exports.writing.publishing import (
    checked,
    convert,
    rename_text_encoder,
    write_vocabulary,
)
from erasure.files.records import read_record
from erasure.files.storage import write_json
from erasure.models.classifier.classifier import Classifier
from erasure.models.diffusion.components import quiet
from erasure.models.diffusion.latent_diffusion import LatentDiffusion


def save_model(model: LatentDiffusion, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a diffusers folder, with what this toolkit knows of the model beside it.

    The model itself is brought to `dtype`, if one is given. Errors as of `checked`.
    """
    pipeline = model.pipeline
    readers = [part for part in model.readers if getattr(pipeline, part) is not None]
    for part in (model.backbone_name, "vae", *model.towers, *readers):
        convert(getattr(pipeline, part), dtype, f"{model.name}'s {part}")
    with quiet():  # it warns of parts that the model does without, as SD 3 without T5
        pipeline.save_pretrained(folder, safe_serialization=True)
    for tower in model.towers:
        rename_text_encoder(folder / tower)
    for tokenizer in model.tokenizers:
        write_vocabulary(getattr(pipeline, tokenizer), folder / tokenizer)
    if not any((folder / model.backbone_name).glob("*.safetensors")):
        raise ModelError(f"{folder} was written without weights of its {model.backbone_name}.")
    for name in ("concepts.json", "presets.json", "text.json"):
        if model.folder and (model.folder / name).is_file():
            shutil.copy(model.folder / name, folder / name)
    rows = getattr(model, "rows", None)  # of a flow-matching model's text
    if rows and not model.folder:  # of a single file they stood beside its configs
        write_json(folder / "text.json", {"max_sequence_length": rows})
    if "sample_size" not in model.backbone.config:
        write_json(folder / "size.json", {"resolution": model.resolution})
    if model.sampling:
        write_json(folder / "sampling.json", asdict(model.sampling))


def save_classifier(model: Classifier, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a folder that the model's own library opens: config.json and model.safetensors.

    Weights are stored as `dtype`; errors as of `checked`.
    """
    network: Any = model.network
    tensors = checked(network.state_dict(), dtype, model.name)
    if model.library == "transformers":
        network.save_pretrained(folder, state_dict=tensors)
        extra = model.folder / "preprocessor_config.json" if model.folder else None
        if extra and extra.is_file():
            (folder / extra.name).write_text(extra.read_text())
        return
    if model.folder:
        config = read_record(model.folder / "config.json", dict[str, Any], error=ModelError)
    else:
        given = {**network.pretrained_cfg, "num_classes": len(model.labels)}
        config = {
            "architecture": given.pop("architecture"), "num_classes": len(model.labels),
            "label_names": list(model.labels), "pretrained_cfg": given,
        }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
