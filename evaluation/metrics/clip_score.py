"""CLIP score: cosine between an image and its prompt.

Hessel et al., "CLIPScore: A Reference-free Evaluation Metric for Image Captioning" (EMNLP 2021),
arXiv:2104.08718. The plain cosine in [-1, 1]; others print 100 max(cosine, 0).
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import open_clip
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from jaxtyping import Float, Int, UInt8
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from transformers import CLIPTokenizer

from erasure.errors import ModelError
from erasure.files.storage import read_tensors
from erasure.models.built_in import POCKET
from erasure.training.processes import own_device
from erasure.training.progress import shown

BATCH = 128
ORDER = (  # in which open_clip looks for weights in a folder; then any .safetensors
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth", "model.safetensors",
)  # fmt: skip


class TextImageModel(Protocol):
    """A CLIP: unit vectors of images, uint8 in [0, 255], (n, 3, h, w), and of texts.

    One image's vector does not depend on the others. `layers` gives what the image tower sees on
    its way, one (n, c, h, w) per stage. All of it is on the CPU, wherever the model is.
    """

    @property
    def name(self) -> str: ...

    def embed_images(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]: ...

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "m d"]: ...

    def layers(self, images: UInt8[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]: ...


def clip_scores(
    clip: TextImageModel, images: UInt8[Tensor, "n 3 h w"], prompts: Sequence[str]
) -> Float[Tensor, " n"]:
    """Cosine in [-1, 1] between each image, in [0, 255], and its prompt."""
    return (clip.embed_images(images) * clip.embed_texts(prompts)).sum(1)


class PocketClip:
    """The pocket suite's own CLIP, opened through open_clip, on this process's device."""

    name = "pocket-clip"

    def __init__(self, suite: Path, device: torch.device | None = None) -> None:
        open_clip.add_model_config(suite / "clip" / "pocket-clip.json")
        with _quiet():  # open_clip warns that it loads no weights; we do, below
            self.model: Any = open_clip.create_model("pocket-clip").eval()
        tensors, _ = read_tensors(suite / "clip" / "model.safetensors")
        self.model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        self.model.to(device or own_device())
        self._tokenizer = CLIPTokenizer.from_pretrained(suite / "tokenizer")

    def embed_images(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        return _embed_images(self.model, images)

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "m d"]:
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True,
            max_length=self.model.context_length, return_tensors="pt",
        )  # fmt: skip
        return _embed_texts(self.model, tokens.input_ids)

    def layers(self, images: UInt8[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        return _layers(self.model, images)


class NamedClip:
    """One of open_clip's models: NAME:PRETRAINED or a folder as open_clip saves it.

    PRETRAINED is a tag that open_clip knows or a .safetensors file; a folder holds
    open_clip_config.json and .safetensors weights. Tags whose weights are pickled alone are
    refused before anything of them is opened. It computes on this process's device unless another
    is given. ModelError names what is wrong.
    """

    def __init__(self, words: str, device: torch.device | None = None) -> None:
        if Path(words).is_dir():
            _refuse_pickles(Path(words))
            architecture, pretrained = f"local-dir:{words}", None
        else:
            architecture, _, pretrained = words.partition(":")
            if not pretrained:
                raise ModelError(
                    f"clip={words} must name its weights too, as clip={words}:PRETRAINED (a tag "
                    "of open_clip's or a .safetensors file), or be a folder."
                )
            if Path(pretrained).is_file() and not pretrained.endswith(".safetensors"):
                raise ModelError(f"{pretrained} is not safetensors; pickled weights stay shut.")
            _fetch_safely(words, open_clip.get_pretrained_cfg(architecture, pretrained))
        try:
            with _quiet():
                self.model: Any = open_clip.create_model(
                    architecture, pretrained=pretrained, require_pretrained=True, weights_only=True
                ).eval()
                self._tokenizer = open_clip.get_tokenizer(architecture)
        except Exception as error:  # open_clip checks little of a folder's configuration
            raise ModelError(f"could not load clip={words}: {_first_line(error)}") from error
        self.model.to(device or own_device())
        self.name = words

    def embed_images(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        return _embed_images(self.model, images)

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "m d"]:
        return _embed_texts(self.model, self._tokenizer(list(texts)))

    def layers(self, images: UInt8[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        return _layers(self.model, images)


@cache
def find_clip(words: str, device: torch.device | None = None) -> "PocketClip | NamedClip":
    """The built-in CLIP for "pocket", else one of open_clip's, as `NamedClip`; opened once."""
    return PocketClip(POCKET, device) if words == "pocket" else NamedClip(words, device)


def _refuse_pickles(folder: Path) -> None:
    """ModelError unless .safetensors are what open_clip takes of this folder."""
    found = {file.name for file in folder.iterdir()}
    if not any(name.endswith(".safetensors") for name in found):
        raise ModelError(f"{folder} holds no .safetensors weights; pickled ones stay shut.")
    first = next((name for name in ORDER if name in found), "")
    is_named = first or found & {"pytorch_model.bin", "pytorch_model.pth", "model.pth"}
    if is_named and not first.endswith(".safetensors"):
        raise ModelError(
            f"{folder} holds pickled weights that open_clip would take before its .safetensors; "
            f"name these {ORDER[0]}."
        )


def _fetch_safely(words: str, tag: Mapping[str, str]) -> None:
    """Have a tag's .safetensors in the Hub's cache; ModelError if it has none."""
    if not tag:
        return  # a file, or a name that open_clip refuses
    place, _, name = tag.get("hf_hub", "").rpartition("/")
    file = f"{Path(name).stem}.safetensors" if name else ORDER[0]
    reason: Exception | None = None
    try:
        if place:
            hf_hub_download(place, file)
            return
    except LocalEntryNotFoundError as error:  # the Hub could not be asked
        reason = error
    except (EntryNotFoundError, RepositoryNotFoundError):
        pass
    except (OSError, ValueError) as error:
        reason = error
    if reason is not None:
        raise ModelError(f"could not load clip={words}: {_first_line(reason)}") from reason
    raise ModelError(
        f"clip={words} must be a tag with .safetensors weights; its own are pickled, and those "
        "stay shut. Save them as .safetensors and name the file: clip=NAME:FILE.safetensors."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.ERROR)  # what matters is raised as well
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@torch.no_grad()
def _embed_images(model: Any, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
    return torch.cat(
        [
            model.encode_image(_prepared(model, part), normalize=True).cpu()
            for part in shown(images.split(BATCH), "looking at images")
        ]
    )


@torch.no_grad()
def _layers(model: Any, images: UInt8[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
    tower = model.visual
    seen = [
        tower.forward_intermediates(_prepared(model, part), intermediates_only=True)
        for part in shown(images.split(BATCH), "looking at images")
    ]
    stages = zip(*(part["image_intermediates"] for part in seen), strict=True)
    return [torch.cat([part.cpu() for part in stage]) for stage in stages]


@torch.no_grad()
def _embed_texts(model: Any, tokens: Int[Tensor, "m n"]) -> Float[Tensor, "m d"]:
    device = next(model.parameters()).device
    return torch.cat(
        [model.encode_text(part.to(device), normalize=True).cpu() for part in tokens.split(BATCH)]
    )


def _prepared(model: Any, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 s s"]:
    """Pixels as the model's own transform gives them."""
    config, device = open_clip.get_model_preprocess_cfg(model), next(model.parameters()).device
    side = config["size"] if isinstance(config["size"], int) else config["size"][0]
    if images.shape[-2:] == (side, side):  # nothing to resize
        return F.normalize(
            images.to(device).float() / 255, list(config["mean"]), list(config["std"])
        )
    transform: Any = image_transform_v2(PreprocessCfg(**config), is_train=False)
    return torch.stack([transform(F.to_pil_image(image)) for image in images]).to(device)
