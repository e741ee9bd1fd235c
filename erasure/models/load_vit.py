"""Open a vision transformer: the built-in one, timm's by name, a folder, or a Hub id."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.data import resolve_data_config
from torch import nn

from erasure.errors import ModelError
from erasure.models.load import POCKET
from erasure.models.vit import Transform, ViTModel
from erasure.records import read_record
from erasure.storage import read_tensors, write_json

BUILT_IN = {"pocket-vit": POCKET / "vit", "pocket-style-vit": POCKET / "style-judge"}
FILES = ["config.json", "model.safetensors", "preprocessor_config.json"]
HALF = (0.5, 0.5, 0.5)


def load_vit(
    name: str, *, revision: str | None = None, device: torch.device | str = "cpu"
) -> ViTModel:
    """Load a classifier from safetensors.

    `name`: "pocket-vit", "timm:NAME" (with timm's pretrained weights), or a folder or Hub id whose
    config.json is timm's, transformers' (a ViTForImageClassification), or torchvision's, written
    {"architecture": "torchvision:vit_b_16", "label_names": [...], "pretrained_cfg": {...}}.
    ModelError names what is wrong.
    """
    if name.startswith("timm:"):
        return _timm_by_name(name, device)
    folder = BUILT_IN.get(name, Path(name))
    if not folder.is_dir():
        if folder.exists() or name.count("/") != 1 or name.startswith((".", "/")):
            raise ModelError(
                f"model must be {', '.join(BUILT_IN)}, timm:NAME, a classifier's folder or a "
                f"Hub id; got {name}."
            )
        folder = _download(name, revision)
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(f"{folder} is no classifier: it has no config.json.")
    try:
        config = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ModelError(f"{file} is not readable: {error}.") from error
    full_name = f"{name}@{revision}" if revision else name
    if "model_type" in config:
        return _transformers(folder, full_name, device)
    if "architecture" not in config:
        raise ModelError(f"{file} names neither a timm architecture nor a model_type.")
    network = read_network(folder, config)
    count = config["num_classes"]
    labels = config.get("label_names") or [str(number) for number in range(count)]
    library = "torchvision" if config["architecture"].startswith("torchvision:") else "timm"
    return ViTModel(
        network.to(device), name=full_name, folder=folder, labels=labels, library=library,
        transform=_transform(config["pretrained_cfg"]),
    )  # fmt: skip


def read_network(folder: Path, config: dict[str, Any]) -> nn.Module:
    """The network of a timm or torchvision folder, in float32; ModelError if it does not fit."""
    network = empty_network(config)
    tensors, _ = read_tensors(folder / "model.safetensors")
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise ModelError(
            f"{folder}'s weights do not fit its config: {str(error).splitlines()[0]}"
        ) from error
    return network


def empty_network(config: dict[str, Any]) -> nn.Module:
    """The network that a timm or torchvision config.json describes, with random weights."""
    word, arguments = config["architecture"], config.get("model_args", {})
    if word.startswith("torchvision:"):
        kind = getattr(torchvision.models, word.removeprefix("torchvision:"), None)
        if kind is None:
            raise ModelError(f"torchvision has no {word}.")
        return kind(num_classes=config["num_classes"], **arguments)
    try:
        return timm.create_model(word, num_classes=config["num_classes"], **arguments)
    except (RuntimeError, TypeError) as error:
        raise ModelError(f"timm cannot build {word}: {error}.") from error


def save_vit(model: ViTModel, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a folder that the model's own library opens: config.json and model.safetensors.

    Weights are stored as `dtype`; errors as of `checked`.
    """
    from erasure.publishing import checked

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


def _timm_by_name(name: str, device: torch.device | str) -> ViTModel:
    word = name.removeprefix("timm:")
    if not timm.is_model(word):
        raise ModelError(f"timm has no model {word!r}.")
    try:
        network: Any = timm.create_model(word, pretrained=True)
    except Exception as error:  # whatever the Hub's client raises without a network
        raise ModelError(
            f"could not fetch timm's weights of {word}: {(str(error) or '-').splitlines()[0]}"
        ) from error
    labels = [str(number) for number in range(network.num_classes)]
    return ViTModel(
        network.to(device), name=name, labels=labels, library="timm",
        transform=_transform(network.pretrained_cfg),
    )  # fmt: skip


def _transformers(folder: Path, name: str, device: torch.device | str) -> ViTModel:
    from transformers import ViTForImageClassification

    try:
        network: Any = ViTForImageClassification.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"could not load {folder}: {str(error).splitlines()[0]}") from error
    file, given = folder / "preprocessor_config.json", {}
    if file.is_file():
        given = json.loads(file.read_text())
    mean, std = (tuple(given.get(key, HALF)) for key in ("image_mean", "image_std"))
    labels = [network.config.id2label[number] for number in range(network.config.num_labels)]
    return ViTModel(
        network.to(device), name=name, folder=folder, labels=labels, library="transformers",
        transform=Transform(network.config.image_size, mean, std),
    )  # fmt: skip


def _transform(pretrained: dict[str, Any]) -> Transform:
    data = resolve_data_config(pretrained_cfg=pretrained)
    return Transform(data["input_size"][-1], data["mean"], data["std"], data["crop_pct"])


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(f"could not fetch {name}: {str(error).splitlines()[0]}") from error
