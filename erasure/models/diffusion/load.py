"""Open a model: the built-in one, a diffusers folder, a Hub id, or a single .safetensors file."""

import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from huggingface_hub import constants

from erasure.errors import ErasureError, ModelError, SettingError
from erasure.files.naming import checked_path
from erasure.files.storage import read_tensors
from erasure.models.built_in import DIFFUSION, FLOW, GOLD, ONE_STEP, POCKET
from erasure.models.diffusion.beside import (
    read_catalogue,
    read_presets,
    read_resolution,
    read_rows,
    read_sampling,
)
from erasure.models.diffusion.checks import check_finite
from erasure.models.diffusion.components import (
    PICKLES,
    first_line,
    open_networks,
    quiet,
    read_configs,
    read_index,
)
from erasure.models.diffusion.eight_bit import unpacked
from erasure.models.diffusion.flow_file import open_flow_file
from erasure.models.diffusion.flow_matching import FlowMatching
from erasure.models.diffusion.flux import Flux
from erasure.models.diffusion.in_memory import IN_MEMORY, check_networks, copied, opened_from
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.one_step import OneStep
from erasure.models.diffusion.pocket_flow import open_pocket_flow
from erasure.models.diffusion.single_file import NEEDED, open_single_file
from erasure.models.diffusion.stable_diffusion import StableDiffusion
from erasure.models.diffusion.stable_diffusion_3 import StableDiffusion3
from erasure.models.diffusion.stable_diffusion_xl import StableDiffusionXL
from erasure.models.digest import digest_of

__all__ = ["read_presets"]  # beside what is defined here
Family = tuple[type[LatentDiffusion], Any, dict[str, Any]]
# the model of each pipeline, and what is left out of it
FAMILIES: dict[str, Family] = {
    "StableDiffusionPipeline": (
        StableDiffusion, StableDiffusionPipeline,
        {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    ),
    "StableDiffusionXLPipeline": (
        StableDiffusionXL, StableDiffusionXLPipeline,
        {"image_encoder": None, "feature_extractor": None, "add_watermarker": False},
    ),
    "StableDiffusion3Pipeline": (
        StableDiffusion3, StableDiffusion3Pipeline,
        {"image_encoder": None, "feature_extractor": None},
    ),
    "FluxPipeline": (Flux, FluxPipeline, {"image_encoder": None, "feature_extractor": None}),
}  # fmt: skip


def load_model(
    name: str | Path | DiffusionPipeline, *, config: Path | None = None,
    revision: str | None = None, dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> LatentDiffusion:  # fmt: skip
    """Load Stable Diffusion 1.x, 2.x, XL, 3 or FLUX.1 from safetensors, as model_index.json says.

    `name`: a built-in one, a diffusers folder, a Hub id, or a .safetensors file, for which `config`
    is a folder with the components' config.json files, and with the weights that a file of SD 3 or
    FLUX leaves out; or a pipeline of diffusers, which stays as it is: the model has a copy.
    ModelError, in one line, for what is wrong, SettingError for a `config` or `revision` of a model
    that has none; pickled checkpoints are refused.
    """
    if isinstance(name, DiffusionPipeline):
        if config is not None or revision is not None:
            raise SettingError("config and revision go with a name; a pipeline has all it needs.")
        with quiet():
            return _from_memory(name, dtype, device)
    if not isinstance(name, str | Path):
        raise ModelError(
            f"model must be a name, a folder, a Hub id or a pipeline of diffusers; got a "
            f"{type(name).__name__}."
        )
    name = str(name)
    path = DIFFUSION.get(name) or checked_path(name, "model")
    if config is not None and path.suffix != ".safetensors":
        raise SettingError(f"config is of a single .safetensors file, which {name} is not.")
    if revision is not None and (name in DIFFUSION or path.exists()):
        raise SettingError(f"revision is of a Hub id, which {name} is not.")
    with quiet():
        kind, pipeline = _named(name, path, config, revision, dtype)
    parts: Any = pipeline
    networks = (kind.backbone_name, *kind.towers, *kind.readers, "vae")
    found = {part: getattr(parts, part) for part in networks}
    check_finite({part: network for part, network in found.items() if network is not None}, name)
    if name == GOLD:  # only its UNet's weights are its own
        tensors, _ = read_tensors(POCKET / "gold" / "unet.safetensors")
        parts.unet.load_state_dict(unpacked(tensors))
    folder = path if path.is_dir() else None
    is_flow = issubclass(kind, FlowMatching)
    beside = folder or (config if is_flow else None)  # its single file has these by its configs
    sampling = read_sampling(beside) if beside else None
    more: dict[str, Any] = {}
    if is_flow:
        more = {"sampling": sampling, "rows": read_rows(beside) if beside else None}
        if kind is Flux:
            more["resolution"] = read_resolution(beside) if beside else None
    elif sampling:
        kind = OneStep
    full_name = f"{name}@{revision}" if revision else name
    model = kind(
        parts.to(device), name=full_name, folder=folder, catalogue=read_catalogue(folder), **more
    )
    if name == ONE_STEP and isinstance(model, StableDiffusion):  # only its UNet is its own
        unet: Any = UNet2DConditionModel.from_pretrained(POCKET / "one-step" / "unet", dtype=dtype)
        return OneStep.on(model, unet.to(device), name=name)
    return model


def _named(
    name: str, path: Path, config: Path | None, revision: str | None, dtype: torch.dtype
) -> tuple[type[LatentDiffusion], DiffusionPipeline]:
    """The pipeline of a name, which is at this path if it is on the disk, and its family."""
    if path.suffix in PICKLES:
        raise ModelError(
            f"{name} is a pickled checkpoint, which can run code; convert it to .safetensors first."
        )
    if name == FLOW:
        return StableDiffusion3, open_pocket_flow(POCKET, dtype)
    if path.suffix == ".safetensors":
        return _from_single_file(path, config, dtype)
    if path.is_dir():
        return _from_folder(path, dtype)
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/")):
        raise ModelError(
            f"model must be {', '.join(DIFFUSION)}, a diffusers folder, a .safetensors file "
            f"or a Hub id; got {name}."
        )
    return _from_hub(name, revision, dtype)


def _from_memory(
    pipeline: DiffusionPipeline, dtype: torch.dtype, device: torch.device | str
) -> LatentDiffusion:
    """A copy of a user's pipeline, or what it was opened from if that holds the same weights.

    A pipeline in half precision is then a rounded copy of those.
    """
    kind, _, _ = _known(type(pipeline).__name__, "the pipeline")
    networks = (kind.backbone_name, *kind.towers, *kind.readers, "vae")
    held = check_networks(pipeline, networks)
    check_finite(held, IN_MEMORY)
    parts = copied(pipeline, held, dtype, device)
    model = kind(parts, name=IN_MEMORY)
    known = _same_on_disk(model, pipeline, {network.dtype for network in held.values()}, dtype)
    if known is not None:
        known.pipeline.scheduler = parts.scheduler
        model = known
    model.source = pipeline
    return model


def _same_on_disk(
    model: LatentDiffusion, pipeline: Any, held: set[Any], dtype: torch.dtype
) -> LatentDiffusion | None:
    """The model that a pipeline was opened from, in `dtype`, if it has the same weights as `model`.

    Nothing is fetched. `held` are the types that the pipeline has its weights in.
    """
    found, own = opened_from(pipeline), held.pop()
    if found is None or held:  # several: no folder is rounded so
        return None
    folder, name = found
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rounded = load_model(folder, dtype=own, device=model.device)
            if digest_of(rounded) != digest_of(model):
                return None
            known = (
                rounded if own == dtype else load_model(folder, dtype=dtype, device=model.device)
            )
    except ErasureError:
        return None
    if name != folder:  # as it is when it is opened from the Hub
        known.name, known.folder, known.catalogue = name, None, None
    return known


def load_generator(name: str, model: StableDiffusion) -> OneStep:
    """The UNet of the named model as a one-step generator that shares the rest with `model`.

    SettingError if the two UNets differ in shape.
    """
    own = load_model(name, device=model.device).backbone
    shapes = [
        {key: tuple(p.shape) for key, p in unet.named_parameters()}
        for unet in (own, model.backbone)
    ]
    if shapes[0] != shapes[1]:
        raise SettingError(f"generator must have {model.name}'s UNet; that of {name} differs.")
    return OneStep.on(model, own, name=name)


def _known(kind: object, source: str) -> Family:
    """What opens the pipeline of this name, which `source` gives in its model_index.json."""
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ModelError(f"{source} is a {kind}; supported are {' and '.join(FAMILIES)}.")
    return FAMILIES[kind]


def _why(source: str, error: Exception) -> str:
    """Why a Hub id did not open."""
    if constants.HF_HUB_OFFLINE:
        return (
            f"{source} is neither a folder here nor in the Hub's cache of this machine, and "
            "HF_HUB_OFFLINE keeps it from being fetched."
        )
    return (
        f"{source} is no folder here and could not be fetched from the Hub (no such model or "
        f"revision, no right to it, or no network): {first_line(error)}"
    )


def _from_hub(
    name: str, revision: str | None, dtype: torch.dtype
) -> tuple[type[LatentDiffusion], DiffusionPipeline]:
    """As `_from_folder`, of what the Hub or its cache here holds under this id."""

    def fetch(variant: str | None) -> Path:
        return Path(
            pipeline.download(name, revision=revision, use_safetensors=True, variant=variant)
        )

    try:
        with warnings.catch_warnings():  # of the Hub's client about what diffusers passes to it
            warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks.*")
            index: Any = DiffusionPipeline.load_config(name, revision=revision)
        # before the gigabytes of another family come
        _, pipeline, _ = _known(index.get("_class_name"), name)
        try:
            folder = fetch(None)
        except (OSError, ValueError):  # half precision may be all that there is
            folder = fetch("fp16")
    except ModelError:
        raise
    except Exception as error:  # network and Hub have many ways to fail
        raise ModelError(_why(name, error)) from error
    kind, opened = _from_folder(folder, dtype)
    opened.register_to_config(_name_or_path=name)
    return kind, opened


def _from_folder(
    folder: Path, dtype: torch.dtype, file: Path | None = None
) -> tuple[type[LatentDiffusion], DiffusionPipeline]:
    """A folder's pipeline, whose networks a file of a flow-matching model may hold."""
    index = read_index(folder)
    kind, pipeline, without = _known(index.get("_class_name"), str(folder))
    readers = [part for part in kind.readers if index.get(part) not in (None, [None, None])]
    beside = [reader.replace("text_encoder", "tokenizer") for reader in readers]
    for part in set(kind.readers) - set(readers):
        without = without | {part: None, part.replace("text_encoder", "tokenizer"): None}
    parts = (kind.backbone_name, *kind.towers, *readers, "vae")
    read_configs(folder, networks=parts, tokenizers=(*kind.tokenizers, *beside))
    if file:
        networks = open_flow_file(file, folder, index, parts, dtype)
    else:
        networks = open_networks(folder, index, parts, dtype)
    try:
        return kind, pipeline.from_pretrained(str(folder), dtype=dtype, **networks, **without)
    except Exception as error:  # tokenizer and scheduler raise anything at all
        raise ModelError(f"could not load {folder}: {first_line(error)}") from error


def _from_single_file(
    file: Path, config: Path | None, dtype: torch.dtype
) -> tuple[type[LatentDiffusion], DiffusionPipeline]:
    if not file.is_file():
        raise ModelError(f"there is no file {file}.")
    if config is None or not (config / "model_index.json").is_file():
        raise ModelError(f"{file} is a single file: config must name {NEEDED}; got {config}.")
    kind, pipeline, without = _known(read_index(config).get("_class_name"), str(config))
    if issubclass(kind, FlowMatching):
        return _from_folder(config, dtype, file)
    read_configs(
        config, networks=(kind.backbone_name, *kind.towers, "vae"), tokenizers=kind.tokenizers
    )
    return kind, open_single_file(file, config, pipeline, kind.towers, dtype, without)
