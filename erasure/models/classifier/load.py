"""Open an image classifier: the built-in one, timm's by name, a folder, or a Hub id."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from erasure.errors import ModelError, SettingError
from erasure.files.naming import checked_path
from erasure.files.records import read_record
from erasure.files.storage import read_tensors
from erasure.models.built_in import CLASSIFIERS
from erasure.models.classifier.classifier import Classifier, Library, reinitialise
from erasure.models.classifier.config import ClassifierConfig, read_config, transform_of
from erasure.models.classifier.filling import fill, line_of, try_once
from erasure.models.classifier.stem import put_small_stem
from erasure.models.classifier.transform import Transform
from erasure.models.classifier.transformers_folder import open_transformers

FILES = ["config.json", "model.safetensors", "preprocessor_config.json"]


def load_classifier(
    name: str, *, revision: str | None = None, device: torch.device | str = "cpu"
) -> Classifier:
    """Load a classifier from safetensors.

    `name`: "pocket-vit", "timm:NAME" (with timm's pretrained weights), or a folder or Hub id (also
    id@revision) whose config.json is timm's, transformers' (of a kind that transformers_folder.py
    lists), or torchvision's, written
    {"architecture": "torchvision:vit_b_16", "label_names": [...], "pretrained_cfg": {...}}; with
    "stem": "cifar" a ResNet begins as stem.py says.
    A config.json says sizes and labels alone; one that names code, files or addresses is refused.
    ModelError names what is wrong, SettingError a `revision` of what is no Hub id.
    """
    folder = CLASSIFIERS.get(name) or checked_path(name, "model")
    if revision is not None and (name.startswith("timm:") or folder.exists()):
        raise SettingError(f"revision is of a Hub id, which {name} is not.")
    if name.startswith("timm:"):
        return _timm_by_name(name, device)
    if not folder.is_dir():
        if folder.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise ModelError(
                f"model must be {', '.join(CLASSIFIERS)}, timm:NAME, a classifier's folder or a "
                f"Hub id; got {name}."
            )
        if revision is None:
            name, _, given = name.partition("@")
            revision = given or None
        folder = _download(name, revision)
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(f"{folder} is no classifier: it has no config.json.")
    config = read_record(file, dict[str, Any], error=ModelError)
    full_name = f"{name}@{revision}" if revision else name
    if "model_type" in config:
        network, labels, transform = open_transformers(folder)
        return _opened(network, full_name, folder, labels, "transformers", transform, device)
    if "architecture" not in config:
        raise ModelError(f"{file} names neither a timm architecture nor a model_type.")
    network, read = open_network(folder)
    library = "torchvision" if read.is_of_torchvision else "timm"
    return _opened(network, full_name, folder, read.labels, library, read.transform, device)


def open_network(folder: Path) -> tuple[nn.Module, ClassifierConfig]:
    """The network of a timm or torchvision folder, in float32; ModelError if it does not fit."""
    config = read_config(folder)
    network = empty_network(config)
    fill(network, _tensors(folder), f"{folder}'s weights", config.architecture)
    try_once(network, config.transform, len(config.labels), str(folder))
    return network, config


def empty_network(config: ClassifierConfig) -> nn.Module:
    """The network that a timm or torchvision config.json describes, with random weights."""
    word, count = config.architecture, len(config.labels)
    try:
        if config.is_of_torchvision:
            kind = getattr(torchvision.models, word.removeprefix("torchvision:"))
            network = kind(num_classes=count, **config.arguments)
        else:
            network = timm.create_model(
                word, pretrained=False, num_classes=count, **config.arguments
            )
        if config.stem == "cifar":
            put_small_stem(network, word)
        return network
    except ModelError:
        raise
    except Exception as error:  # whatever a library makes of arguments that do not fit
        raise ModelError(
            f"{word} cannot be built as config.json says: {line_of(error)}."
        ) from error


def random_weights(model: Classifier, generator: torch.Generator) -> None:
    """Its library's own random weights in place, and BatchNorm's statistics anew.

    Where the library's folder does not say how the network is built, as `reinitialise`.
    """
    if model.library == "transformers" or model.folder is None:
        reinitialise(model.network, generator)
        return
    fresh = seeded(lambda: empty_network(read_config(model.folder or Path())), generator)
    tensors = fresh.state_dict()
    with torch.no_grad():
        for name, tensor in model.network.state_dict().items():
            tensor.copy_(tensors[name])


def seeded(build: Callable[[], nn.Module], generator: torch.Generator) -> nn.Module:
    """What `build` makes, its random weights fixed by the generator."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.set_state(generator.get_state())
        return build()


def _timm_by_name(name: str, device: torch.device | str) -> Classifier:
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
    given = dict(network.pretrained_cfg)
    return _opened(network, name, None, labels, "timm", transform_of(given), device)


def _opened(
    network: nn.Module, name: str, folder: Path | None, labels: Sequence[str], library: Library,
    transform: Transform, device: torch.device | str,
) -> Classifier:  # fmt: skip
    return Classifier(
        network.to(device), name=name, labels=labels, transform=transform, library=library,
        folder=folder,
    )  # fmt: skip


def _tensors(folder: Path) -> dict[str, Tensor]:
    file = folder / "model.safetensors"
    pickled = next((f for f in ("pytorch_model.bin",) if (folder / f).is_file()), None)
    if not file.is_file() and pickled:
        raise ModelError(
            f"{folder} has its weights as {pickled} alone, which can run code and is not loaded; "
            "save them as model.safetensors (timm: save_for_hf(..., safe_serialization=True))."
        )
    return read_tensors(file)[0]


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(f"could not fetch {name}: {str(error).splitlines()[0]}") from error
