"""Open the networks of a diffusers folder, and refuse weights that are not whole.

The libraries fill what a file lacks with random numbers and say so in a table that goes by.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import diffusers.utils.logging
import torch
import transformers
import transformers.utils.logging
from torch import nn

from erasure.errors import ModelError
from erasure.training.progress import shown

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
# what each part may be, by the library's own name
CLASSES: dict[str, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel",),
    "transformer": ("SD3Transformer2DModel",),
    "vae": ("AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL"),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "text_encoder_3": ("T5EncoderModel",),
}
# where a pipeline's differ
OWN_CLASSES: dict[str, dict[str, tuple[str, ...]]] = {
    "FluxPipeline": {
        "transformer": ("FluxTransformer2DModel",),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("T5EncoderModel",),
    },
}
# older files of text encoders hold these, and files of the whole CLIP its other half
HARMLESS = re.compile(
    r"(?:^|\.)(?:position_ids|logit_scale|text_projection\.weight)$|^(?:vision_model|visual_proj)"
)
WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_)?model(?:-\d+-of-\d+)?(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?"
    r"\.safetensors"
)


@contextmanager
def quiet() -> Iterator[None]:
    """Within it diffusers and transformers tell errors alone; bars stay off for good."""
    libraries = [diffusers.utils.logging, transformers.utils.logging]
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.disable_progress_bar()
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)


def open_networks(
    folder: Path, index: dict[str, Any], parts: Sequence[str], dtype: torch.dtype
) -> dict[str, nn.Module]:
    """The named parts of a folder, as its model_index.json says.

    ModelError, in one line, for a part that is absent, of an unknown class, pickled, or whose files
    lack a tensor, have one too many or one of another shape.
    """
    for part in parts:
        _refuse_pickles(folder / part)
    listed = shown([*parts], f"opening {folder.name}")
    return {
        part: network_of(
            class_of(part, index, folder), str(folder / part), folder / part, dtype,
            use_safetensors=True, variant=variant_of(folder / part),
        )
        for part in listed
    }  # fmt: skip


def read_configs(
    folder: Path, *, networks: Sequence[str], tokenizers: Sequence[str]
) -> dict[str, Any]:
    """The folder's model_index.json, once it and the parts' configs are known to be configs.

    The libraries take a text in their place for the name of a model on the Hub, and a scheduler's
    empty config for one with a noise schedule of their own.
    """
    index = read_index(folder)
    for part in networks:
        class_of(part, index, folder)
        _record(folder / part / "config.json")
    for part in ("scheduler", *tokenizers):
        if index.get(part) in (None, [None, None]):
            raise ModelError(f"{folder} has no {part}; a whole pipeline is needed.")
    schedule = _record(folder / "scheduler" / "scheduler_config.json")
    is_flow = str(schedule.get("_class_name")).startswith("FlowMatch")
    needed = {"shift"} if is_flow else {"beta_start", "beta_end", "beta_schedule"}
    lacking = needed - schedule.keys()
    if lacking and schedule.get("trained_betas") is None:
        raise ModelError(
            f"{folder / 'scheduler' / 'scheduler_config.json'} does not say its noise schedule: "
            f"{' and '.join(sorted(lacking))} must be there."
        )
    return index


def read_index(folder: Path) -> dict[str, Any]:
    """A diffusers folder's model_index.json; ModelError if it is none."""
    if not (folder / "model_index.json").is_file():
        inside = sorted(folder.glob("*.safetensors"))
        named = f" Of the files in it name one: {', '.join(map(str, inside))}." if inside else ""
        raise ModelError(f"{folder} is not a diffusers folder: it has no model_index.json.{named}")
    return _record(folder / "model_index.json")


def _record(file: Path) -> dict[str, Any]:
    # not by read_record: diffusers itself writes -Infinity, which is no JSON
    try:
        record = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise ModelError(f"{file} cannot be read as a config: {why}.") from error
    if not isinstance(record, dict):
        raise ModelError(f"{file} must hold a config; got {type(record).__name__}.")
    return record


def first_line(error: BaseException) -> str:
    """What an error of a library says, cut to one line and without diffusers' own advice."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.removeprefix("Cannot load  because ").split(" If you want to instead")[0]


def _refuse_pickles(part: Path) -> None:
    if not any(part.glob("*.safetensors")):
        pickled = next((f.name for f in part.glob("*") if f.suffix in PICKLES), None)
        why = f"only the pickled {pickled}" if pickled else "no weights"
        raise ModelError(f"{part} holds {why}; .safetensors is needed.")


def classes_of(part: str, pipeline: object) -> tuple[str, ...]:
    """What a part of the pipeline of this class name may be."""
    return OWN_CLASSES.get(str(pipeline), {}).get(part, CLASSES[part])


def class_of(part: str, index: dict[str, Any], folder: Path) -> Any:
    """The class that model_index.json names for a part, if it is one of those that are known."""
    entry = index.get(part)
    name = entry[1] if isinstance(entry, (list, tuple)) and len(entry) == 2 else None
    if name is None and part == "text_encoder" and "text_encoder_2" in index:
        raise ModelError(f"{folder} has one text encoder only: a refiner draws no image itself.")
    known = classes_of(part, index.get("_class_name"))
    if name not in known:
        raise ModelError(
            f"{part} of {folder} must be {' or '.join(known)}; its model_index.json has "
            f"{name or 'none'}."
        )
    library = transformers if part.startswith("text_encoder") else diffusers
    return getattr(library, str(name))


def variant_of(part: Path) -> str | None:
    """The word between name and ending of a part's files ("fp16") if there are none without it."""
    found = [m["variant"] for m in map(WEIGHTS.fullmatch, _names(part)) if m]
    if not found or None in found:
        return None
    variants = sorted({variant for variant in found if variant})
    if len(variants) > 1 and "fp16" not in variants:
        raise ModelError(
            f"{part} holds its weights as {' and '.join(variants)}; name one of them plainly "
            "(without that word)."
        )
    return "fp16" if "fp16" in variants else variants[0]


def _names(part: Path) -> list[str]:
    return [file.name for file in part.glob("*.safetensors")]


def network_of(
    kind: Any, place: str | None, source: object, dtype: torch.dtype, **more: Any
) -> Any:
    """A network of this class by its own `from_pretrained`, which takes `place` and `more`.

    ModelError, in one line that names `source`, for weights that are not whole.
    """
    if kind.__module__.startswith("transformers"):
        # it says which tensor has another shape only when it may go on with a random one
        more["ignore_mismatched_sizes"] = True
    try:
        network, told = kind.from_pretrained(place, dtype=dtype, output_loading_info=True, **more)
    except ModelError:
        raise
    except Exception as error:  # a config can make the libraries raise anything at all
        raise ModelError(f"could not load {source}: {first_line(error)}") from error
    missing = sorted(told["missing_keys"])
    if missing:
        raise ModelError(
            f"{source} lacks {missing[0]}{_and_more(missing)}: it does not hold all the weights "
            "that its config.json asks for."
        )
    for found in sorted(told["mismatched_keys"]):
        name, got, want = found if isinstance(found, (list, tuple)) else (found, "", "")
        raise ModelError(
            f"{source} holds {name} in the shape {tuple(got)}; its config.json asks for "
            f"{tuple(want)}."
        )
    extra = sorted(key for key in told["unexpected_keys"] if not HARMLESS.search(key))
    if extra:
        raise ModelError(
            f"{source} holds {extra[0]}{_and_more(extra)}, for which its config.json has no place; "
            "is it another model's?"
        )
    return network


def _and_more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
