"""CLIP score: cosine between an image and its prompt."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import open_clip
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from transformers import CLIPTokenizer

from erasure.errors import ModelError
from erasure.storage import read_tensors

BATCH = 128


class TextImageModel(Protocol):
    """A CLIP: unit vectors of images, uint8 in [0, 255], (n, 3, h, w), and of texts."""

    @property
    def name(self) -> str: ...

    def embed_images(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]: ...

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "m d"]: ...


class PocketClip:
    """The pocket suite's own CLIP, opened through open_clip."""

    name = "pocket-clip"

    def __init__(self, suite: Path) -> None:
        open_clip.add_model_config(suite / "clip" / "pocket-clip.json")
        logging.disable(logging.WARNING)  # open_clip warns that it loads no weights; we do, below
        try:
            self.model: Any = open_clip.create_model("pocket-clip").eval()
        finally:
            logging.disable(logging.NOTSET)
        tensors, _ = read_tensors(suite / "clip" / "model.safetensors")
        self.model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        self._tokenizer = CLIPTokenizer.from_pretrained(suite / "tokenizer")

    def embed_images(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        return _embed_images(self.model, images)

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "m d"]:
        tokens = self._tokenizer(
            list(texts), padding="max_length", truncation=True,
            max_length=self.model.context_length, return_tensors="pt",
        )  # fmt: skip
        return _embed_texts(self.model, tokens.input_ids)

    def cosine(self, images: UInt8[Tensor, "n 3 h w"], prompts: list[str]) -> Float[Tensor, " n"]:
        """Cosine in [-1, 1] between each image and its prompt.

        One image's value does not depend on others.
        """
        return (self.embed_images(images) * self.embed_texts(prompts)).sum(1)


class NamedClip:
    """One of open_clip's models; `pretrained` is a tag that it knows, or a local weights file."""

    def __init__(self, architecture: str, pretrained: str = "") -> None:
        if not pretrained:
            raise ModelError(
                f"clip={architecture} must name its weights too, as clip={architecture}:PRETRAINED "
                "(a tag of open_clip's or a file)."
            )
        try:
            self.model: Any = open_clip.create_model(architecture, pretrained=pretrained).eval()
            self._tokenizer = open_clip.get_tokenizer(architecture)
        except (RuntimeError, OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise ModelError(f"could not load clip={architecture}:{pretrained}: {first}") from error
        self.name = f"{architecture}:{pretrained}"

    def embed_images(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        return _embed_images(self.model, images)

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "m d"]:
        return _embed_texts(self.model, self._tokenizer(list(texts)))


@torch.no_grad()
def _embed_images(model: Any, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
    config = open_clip.get_model_preprocess_cfg(model)
    side = config["size"] if isinstance(config["size"], int) else config["size"][0]
    seen = []
    for part in images.split(BATCH):
        pixels = part.float() / 255
        if pixels.shape[-2:] != (side, side):
            pixels = F.resize(pixels, [side, side], antialias=True)
        pixels = F.normalize(pixels, list(config["mean"]), list(config["std"]))
        seen.append(model.encode_image(pixels, normalize=True))
    return torch.cat(seen)


@torch.no_grad()
def _embed_texts(model: Any, tokens: Int[Tensor, "m n"]) -> Float[Tensor, "m d"]:
    return torch.cat([model.encode_text(part, normalize=True) for part in tokens.split(BATCH)])
