"""Open what is compared: models, runs and exports of any layout, as tensors by full name."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from erasure.comparing.adapters import Adapters, adapter_files, read_adapters
from erasure.edit import Edit
from erasure.errors import ModelError, SettingError
from erasure.exports.writing.kohya import kohya_names
from erasure.exports.writing.original_names import clip_names
from erasure.files.naming import checked_path
from erasure.files.records import read_record
from erasure.files.storage import read_tensors
from erasure.models.built_in import DIFFUSION
from erasure.models.classifier.classifier import Classifier
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.load import load_model
from erasure.opening import CLASSIFIERS, open_classifier, open_run

TOWERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
FACTS = (
    "prediction_type", "beta_schedule", "beta_start", "beta_end", "rescale_betas_zero_snr",
    "num_train_timesteps", "shift",
)  # fmt: skip
Model = LatentDiffusion | Classifier


@dataclass(frozen=True)
class Side:
    """One of the two: its tensors by full name, and what else decides what it answers.

    `is_change` if the tensors are what adapters add to the weights, not the weights.
    """

    name: str
    family: str
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, str] = field(default_factory=dict)
    is_change: bool = False


def open_side(place: str, *, config: Path | None, base: str | None) -> Side:
    """The tensors of a model, a run or an export.

    `config` has the configs of a single file, `base` is the model that runs and adapters belong to.
    ModelError, EditError or SettingError for what cannot be read.
    """
    path = checked_path(place, "model").expanduser()
    files = adapter_files(path)
    if place in DIFFUSION or place in CLASSIFIERS:
        return _side(_model(place, config), place)
    if (path / "edit.json").is_file():
        is_of_classifier = Edit.load(path).is_of_classifier
        return _side((open_classifier if is_of_classifier else open_run)(path, base=base), place)
    if files:
        return _with_adapters(place, read_adapters(files), config, base)
    if path.is_dir():
        return _of_folder(place, path)
    return _side(_model(str(path) if path.exists() else place, config), place)


def _of_folder(place: str, folder: Path) -> Side:
    """A pipeline's, a single file's with its configs, some text encoders', or a classifier's."""
    if (folder / "model_index.json").is_file():
        files = list(folder.glob("*.safetensors"))
        if len(files) == 1 and not any((folder / "unet").glob("*.safetensors")):
            return _side(load_model(str(files[0]), config=folder), place)
        return _side(load_model(str(folder)), place)
    towers = _towers_in(folder)
    if towers:
        return Side(place, "text encoder alone", towers)
    return _side(_classifier(str(folder)), place)


def _towers_in(folder: Path) -> dict[str, Tensor]:
    """Of an export to text-encoder: the folder itself, or one subfolder each."""
    found: dict[str, Tensor] = {}
    for place, tower in ((folder, TOWERS[0]), *((folder / tower, tower) for tower in TOWERS)):
        if not (place / "config.json").is_file():
            continue
        config = read_record(place / "config.json", dict[str, Any], error=ModelError)
        if str(config.get("model_type")).startswith("clip_text"):
            found |= _part(tower, read_tensors(place / "model.safetensors")[0])
    return found


def _model(place: str, config: Path | None) -> Model:
    """By its name; a Hub id may be a pipeline's or a classifier's."""
    if place in CLASSIFIERS or place.startswith("timm:"):
        return _classifier(place)
    try:
        return load_model(place, config=config if place.endswith(".safetensors") else None)
    except ModelError:
        if place in DIFFUSION or Path(place).exists() or place.count("/") != 1:
            raise
        with suppress(ModelError):  # then what the first said is told
            return _classifier(place)
        raise


def _classifier(place: str) -> Classifier:
    from erasure.models.classifier.load import load_classifier  # timm takes long to import

    return load_classifier(place)


def _side(model: Model, name: str) -> Side:
    if isinstance(model, Classifier):
        labels = {"labels": ", ".join(model.labels)}
        return Side(name, f"classifier of {model.library}", model.tensors(), labels)
    pipeline, found = model.pipeline, dict[str, Tensor]()
    for part in (model.backbone_name, "vae", *model.towers, *model.readers):
        network: nn.Module | None = getattr(pipeline, part)
        if network is not None:
            found |= _part(part, network.state_dict())
    config = pipeline.scheduler.config
    facts = {fact: str(config[fact]) for fact in FACTS if config.get(fact) is not None}
    facts["scaling_factor"] = f"{pipeline.vae.config.scaling_factor:g}"
    return Side(name, type(pipeline).__name__, found, facts)


def _part(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By full name; a CLIP tower's as every release of transformers reads them."""
    plain = {name: t for name, t in tensors.items() if not name.endswith("position_ids")}
    is_clip = any(".self_attn." in name for name in plain)
    names = clip_names(plain) if is_clip else {name: name for name in plain}
    return {f"{part}.{names[name]}": tensor for name, tensor in plain.items()}


def _with_adapters(place: str, adapters: Adapters, config: Path | None, base: str | None) -> Side:
    """What they add, or the base with that added, where a base is given."""
    if base is None:
        return Side(place, f"adapters ({adapters.layout})", adapters.changes, is_change=True)
    model = _model(base, config)
    side, changes = _side(model, place), adapters.changes
    if adapters.layout == "kohya":
        changes = _from_kohya(model, changes, place)
    tensors = dict(side.tensors)
    for name, change in changes.items():
        part, _, rest = name.partition(".")
        full = f"{part}.{clip_names([rest])[rest]}" if part in TOWERS else name
        if full not in tensors or tensors[full].shape != change.shape:
            raise ModelError(f"{place} changes {full}, which {base} lacks or has in another shape.")
        tensors[full] = tensors[full] + change
    return Side(place, side.family, tensors, side.facts)


def _from_kohya(model: Model, changes: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    """The changes by the model's own names."""
    if isinstance(model, Classifier):
        raise SettingError(f"base of {place} must be a pipeline; {model.name} is a classifier.")
    modules = [
        name.removesuffix(".weight") for name in model.parameters() if name.endswith(".weight")
    ]
    own = {
        f"{kohya}.weight": f"{name}.weight" for name, kohya in kohya_names(model, modules).items()
    }
    strange = next((name for name in changes if name not in own), None)
    if strange is not None:
        raise ModelError(f"{place} changes {strange}, which {model.name} does not have.")
    return {own[name]: change for name, change in changes.items()}
