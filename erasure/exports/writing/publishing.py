"""What leaves this machine: number formats that hold its values, files that other tools read, and
no paths of its user."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from erasure.errors import ModelError, SettingError
from erasure.models.built_in import CLASSIFIERS, DIFFUSION, POCKET

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CONFIGS = (
    "config.json", "model_index.json", "scheduler_config.json", "tokenizer_config.json",
    "preprocessor_config.json", "adapter_config.json",
)  # fmt: skip
# the folders of an absolute path inside a text; no address (":" in front) and no fraction
FOLDERS = re.compile(
    r"(?<![\w:/.~\\])(?:~[\w.-]*|[A-Za-z]:)?(?:[/\\][^\s/\\,:;'\"]+)+[/\\](?=[^\s/\\])"
)


def checked(tensors: Mapping[str, Tensor], dtype: torch.dtype, of: str) -> dict[str, Tensor]:
    """The tensors as contiguous ones of this type; integers and masks stay as they are.

    ModelError for values that are not finite, SettingError for one beyond the type's range.
    """
    found = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            found[name] = tensor.contiguous()
            continue
        if not torch.isfinite(tensor).all():
            raise ModelError(
                f"{name} of {of} holds values that are not finite (NaN or infinite); such a model "
                "draws nothing and is not exported."
            )
        low = tensor.to(dtype).contiguous()
        if not torch.isfinite(low).all():
            largest = float(tensor[~torch.isfinite(low)].abs().max())
            raise SettingError(
                f"dtype must be float32 or bfloat16 for {of}: its {name} holds {largest:g}, and "
                f"{str(dtype).removeprefix('torch.')} ends at {torch.finfo(dtype).max:g}."
            )
        found[name] = low
    return found


def convert(module: nn.Module, dtype: torch.dtype | None, of: str) -> None:
    """Bring a module to this type (None: leave it), once its values are known to fit: `checked`."""
    for name, tensor in module.state_dict().items():
        checked({name: tensor}, dtype or tensor.dtype, of)
    if dtype:
        nn.Module.to(module, dtype)  # diffusers' own warns of parts that it has none of


def hub_id(base: str) -> str | None:
    """The base's name on the Hub; None for a local folder or file, or a built-in model."""
    name = base.partition("@")[0]
    if name.startswith("timm:") and "." in name:  # NAME.TAG is a repository of the timm library
        name = name.replace("timm:", "timm/")
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    is_local = Path(name).exists() or Path(base).exists()
    return name if "/" in name and not is_local else None


def is_built_in(base: str) -> bool:
    """Whether the base is one of the models that the package holds."""
    return base in DIFFUSION or base in CLASSIFIERS or Path(base).is_relative_to(POCKET)


def public_name(base: str) -> str:
    """A base model's name without the folders that it lies in on this machine."""
    is_name = hub_id(base) is not None or "/" not in base.replace("\\", "/")
    return base if is_name else Path(base).name or "model"


def without_paths(value: Any) -> Any:
    """A record in whose texts a path is its last part alone; addresses and Hub ids stay."""
    if isinstance(value, Mapping):
        return {key: without_paths(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(entry) for entry in value]
    if not isinstance(value, str):
        return value
    path = Path(value).expanduser() if value.startswith("~/") else Path(value)
    if "\n" not in value and (path.is_absolute() or (len(path.parts) > 1 and _exists(path))):
        return path.name or value
    word, sign, rest = value.partition("=")
    if sign and re.fullmatch(r"[\w.-]+", word):  # as in clip=FOLDER
        return word + sign + without_paths(rest)
    return FOLDERS.sub("", value)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def clean_configs(folder: Path, base: str) -> None:
    """Take the paths of this machine out of a saved model's own records."""
    for file in sorted(folder.rglob("*.json")):
        if file.name not in CONFIGS:
            continue
        record = _saved(file)
        clean = without_paths(record)
        for key in ("_name_or_path", "name_or_path", "base_model_name_or_path"):
            if clean.get(key):
                clean[key] = public_name(base)
        if clean != record:
            file.write_text(json.dumps(clean, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _saved(file: Path) -> dict[str, Any]:
    """What a library has just written: with infinities and long integers, which are no JSON."""
    return json.loads(file.read_text("utf-8"))


def rename_text_encoder(folder: Path) -> None:
    """Name a saved text encoder's tensors `text_model.…`, as published folders and old tools do."""
    file = folder / "config.json"
    config = _saved(file)
    # diffusers loads the UNet as float32 whatever its file holds; transformers goes by this word
    config["dtype"] = "float32"
    file.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        if not any(name.startswith("text_model.") for name in tensors):
            tensors = {
                name if name.startswith("text_projection") else f"text_model.{name}": tensor
                for name, tensor in tensors.items()
            }
            renamed = file.with_name("renamed.safetensors")  # what is read may still be mapped
            save_file(tensors, renamed, {"format": "pt"})
            renamed.replace(file)


def write_vocabulary(tokenizer: Any, folder: Path) -> None:
    """Beside a saved tokenizer.json, the files that transformers before release 5 reads.

    vocab.json, merges.txt, special_tokens_map.json, and a tokenizer_config.json of words that both
    releases know. A tokenizer that is none of byte pairs stays as it was saved.
    """
    record = _saved(folder / "tokenizer.json")
    pairs = record.get("model", {})
    if pairs.get("type") != "BPE":
        return
    # how the last text was cut and padded is no part of a tokenizer
    if record.get("truncation") or record.get("padding"):
        clean = record | {"truncation": None, "padding": None}
        text = json.dumps(clean, indent=2, ensure_ascii=False)
        (folder / "tokenizer.json").write_text(text, "utf-8")
    vocabulary = dict(sorted(pairs["vocab"].items(), key=lambda entry: entry[1]))
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    merges = [m if isinstance(m, str) else " ".join(m) for m in pairs["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", "utf-8")
    config = _saved(folder / "tokenizer_config.json")
    for word in ("backend", "is_local", "local_files_only"):  # of this opening, or of release 5
        config.pop(word, None)
    config["tokenizer_class"] = "CLIPTokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
