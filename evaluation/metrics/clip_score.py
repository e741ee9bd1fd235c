"""CLIP score: cosine between an image and its prompt.

Hessel et al., "CLIPScore: A Reference-free Evaluation Metric for Image Captioning" (EMNLP 2021),
arXiv:2104.08718. The plain cosine in [-1, 1]; others print 100 max(cosine, 0).
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import open_clip
import torch
from jaxtyping import Float, Int, UInt8
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from transformers import CLIPTokenizer

from erasure.errors import ModelError
from erasure.storage import read_tensors

BATCH = 128


class TextImageModel(Protocol):
    """A CLIP: unit vectors of images, uint8 in [0, 255], (n, 3, h, w), and of texts.

    One image's vector does not depend on the others. `layers` gives what the image tower sees on
    its way, one (n, c, h, w) per stage.
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
    """The pocket suite's own CLIP, opened through open_clip."""

    name = "pocket-clip"

    def __init__(self, suite: Path) -> None:
        open_clip.add_model_config(suite / "clip" / "pocket-clip.json")
        with _quiet():  # open_clip warns that it loads no weights; we do, below
            self.model: Any = open_clip.create_model("pocket-clip").eval()
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

    def layers(self, images: UInt8[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        return _layers(self.model, images)


class NamedClip:
    """One of open_clip's models: NAME:PRETRAINED or a folder as open_clip saves it.

    PRETRAINED is a tag that open_clip knows or a .safetensors file; a folder holds
    open_clip_config.json and .safetensors weights. ModelError names what is wrong.
    """

    def __init__(self, words: str) -> None:
        if Path(words).is_dir():
            if not any(Path(words).glob("*.safetensors")):
                raise ModelError(f"{words} holds no .safetensors weights; pickled ones stay shut.")
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
        try:
            with _quiet():
                self.model: Any = open_clip.create_model(
                    architecture, pretrained=pretrained, require_pretrained=True
                ).eval()
                self._tokenizer = open_clip.get_tokenizer(architecture)
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            first = str(error).strip().splitlines()[0]
            raise ModelError(f"could not load clip={words}: {first}") from error
        self.name = words

    def embed_images(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        return _embed_images(self.model, images)

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "m d"]:
        return _embed_texts(self.model, self._tokenizer(list(texts)))

    def layers(self, images: UInt8[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        return _layers(self.model, images)


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
        [model.encode_image(_prepared(model, part), normalize=True) for part in images.split(BATCH)]
    )


@torch.no_grad()
def _layers(model: Any, images: UInt8[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
    tower = model.visual
    seen = [
        tower.forward_intermediates(_prepared(model, part), intermediates_only=True)
        for part in images.split(BATCH)
    ]
    stages = zip(*(part["image_intermediates"] for part in seen), strict=True)
    return [torch.cat(stage) for stage in stages]


@torch.no_grad()
def _embed_texts(model: Any, tokens: Int[Tensor, "m n"]) -> Float[Tensor, "m d"]:
    parts = tokens.to(next(model.parameters()).device).split(BATCH)
    return torch.cat([model.encode_text(part, normalize=True) for part in parts])


def _prepared(model: Any, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 s s"]:
    """Pixels as the model's own transform gives them."""
    config, device = open_clip.get_model_preprocess_cfg(model), next(model.parameters()).device
    side = config["size"] if isinstance(config["size"], int) else config["size"][0]
    if images.shape[-2:] == (side, side):  # nothing to resize
        pixels = images.to(device).float() / 255
        return F.normalize(pixels, list(config["mean"]), list(config["std"]))
    transform: Any = image_transform_v2(PreprocessCfg(**config), is_train=False)
    return torch.stack([transform(F.to_pil_image(image)) for image in images]).to(device)
