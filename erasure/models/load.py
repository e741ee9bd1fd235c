"""Open a model: the built-in one, a diffusers folder, a Hub id, or a single .safetensors file."""

import json
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import torch
import transformers.utils.logging
from diffusers import (
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors import SafetensorError

from erasure.errors import ModelError, SettingError
from erasure.models.latent_diffusion import LatentDiffusion
from erasure.models.one_step import OneStep
from erasure.models.stable_diffusion import StableDiffusion
from erasure.models.stable_diffusion_xl import StableDiffusionXL
from erasure_datasets.concept import Catalogue

POCKET = Path(__file__).parent / "pocket"
ONE_STEP = "pocket-one-step"
BUILT_IN = {"pocket": POCKET, ONE_STEP: POCKET}
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
# the model of each pipeline, and what is left out of it
FAMILIES: dict[str, tuple[type[LatentDiffusion], Any, dict[str, Any]]] = {
    "StableDiffusionPipeline": (
        StableDiffusion, StableDiffusionPipeline,
        {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    ),
    "StableDiffusionXLPipeline": (
        StableDiffusionXL, StableDiffusionXLPipeline,
        {"image_encoder": None, "feature_extractor": None, "add_watermarker": False},
    ),
}  # fmt: skip


def load_model(
    name: str, *, config: Path | None = None, revision: str | None = None,
    dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
) -> LatentDiffusion:  # fmt: skip
    """Load Stable Diffusion 1.x, 2.x or XL from safetensors, as its model_index.json says.

    `name`: "pocket", a diffusers folder, a Hub id, or a .safetensors file, for which `config` is a
    folder with the components' config.json files. ModelError names what is wrong; pickled
    checkpoints are refused.
    """
    for library in (diffusers, transformers):
        # a bar per component says nothing about the erasure
        library.utils.logging.disable_progress_bar()
    path = BUILT_IN.get(name, Path(name))
    if path.suffix in PICKLES:
        raise ModelError(
            f"{name} is a pickled checkpoint, which can run code; convert it to .safetensors first."
        )
    if path.suffix == ".safetensors":
        kind, pipeline = _from_single_file(path, config, dtype)
    elif path.is_dir():
        kind, pipeline = _from_pretrained(str(path), None, dtype)
    elif path.exists() or name.count("/") != 1 or name.startswith((".", "/")):
        raise ModelError(
            f"model must be {', '.join(BUILT_IN)}, a diffusers folder, a .safetensors file "
            f"or a Hub id; got {name}."
        )
    else:
        kind, pipeline = _from_pretrained(name, revision, dtype)
    folder = path if path.is_dir() else None
    catalogue = (
        Catalogue.load(path / "concepts.json")
        if folder and (path / "concepts.json").is_file()
        else None
    )
    full_name = f"{name}@{revision}" if revision else name
    if folder is not None and (folder / "sampling.json").is_file():
        kind = OneStep
    model = kind(pipeline.to(device), name=full_name, folder=folder, catalogue=catalogue)
    if name == ONE_STEP and isinstance(model, StableDiffusion):  # only its UNet is its own
        unet: Any = UNet2DConditionModel.from_pretrained(POCKET / "one-step" / "unet", dtype=dtype)
        return OneStep.on(model, unet.to(device), name=name)
    return model


def load_generator(name: str, model: StableDiffusion) -> OneStep:
    """The UNet of the named model as a one-step generator that shares the rest with `model`.

    SettingError if the two UNets differ in shape.
    """
    own = load_model(name, device=model.device).pipeline.unet
    shapes = [
        {key: tuple(p.shape) for key, p in unet.named_parameters()}
        for unet in (own, model.pipeline.unet)
    ]
    if shapes[0] != shapes[1]:
        raise SettingError(f"generator must have {model.name}'s UNet; that of {name} differs.")
    return OneStep.on(model, own, name=name)


def read_presets(folder: Path | None, word: str) -> dict[str, str | int | float | bool]:
    """The model folder's own settings for a method or attack; empty if it has none."""
    file = folder / "presets.json" if folder else None
    if file is None or not file.is_file():
        return {}
    return json.loads(file.read_text()).get(word, {})


def _refuse_pickles(folder: Path, towers: tuple[str, ...]) -> None:
    for component in ("unet", *towers, "vae"):
        inside = folder / component
        if not any(inside.glob("*.safetensors")):
            pickled = next((f.name for f in inside.glob("*") if f.suffix in PICKLES), None)
            why = f"only the pickled {pickled}" if pickled else "no weights"
            raise ModelError(f"{inside} holds {why}; .safetensors is needed.")


def _family(
    source: str, revision: str | None = None
) -> tuple[type[LatentDiffusion], Any, dict[str, Any]]:
    """What opens the pipeline that a folder's or Hub id's model_index.json names."""
    if Path(source).is_dir() and not (Path(source) / "model_index.json").is_file():
        raise ModelError(f"{source} is not a diffusers folder: it has no model_index.json.")
    try:
        index: Any = DiffusionPipeline.load_config(source, revision=revision)
    except (OSError, ValueError) as error:
        raise ModelError(f"could not load {source}: {_first_line(error)}") from error
    kind = index.get("_class_name")
    if kind not in FAMILIES:
        raise ModelError(f"{source} is a {kind}; supported are {' and '.join(FAMILIES)}.")
    return FAMILIES[kind]


def _from_pretrained(
    source: str, revision: str | None, dtype: torch.dtype
) -> tuple[type[LatentDiffusion], DiffusionPipeline]:
    kind, pipeline, without = _family(source, revision)
    if Path(source).is_dir():
        _refuse_pickles(Path(source), kind.towers)
    try:
        return kind, pipeline.from_pretrained(
            source, revision=revision, dtype=dtype, use_safetensors=True, **without
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"could not load {source}: {_first_line(error)}") from error


def _from_single_file(
    file: Path, config: Path | None, dtype: torch.dtype
) -> tuple[type[LatentDiffusion], DiffusionPipeline]:
    if not file.is_file():
        raise ModelError(f"there is no file {file}.")
    if config is None or not (config / "model_index.json").is_file():
        raise ModelError(
            f"{file} is a single file: name a folder of component configs "
            "(with model_index.json) as config."
        )
    kind, pipeline, without = _family(str(config))
    try:
        return kind, pipeline.from_single_file(
            str(file), config=str(config), dtype=dtype, local_files_only=True, **without
        )
    except (
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
        TypeError,
        AttributeError,
        SafetensorError,
    ) as error:
        raise ModelError(f"could not load {file}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
