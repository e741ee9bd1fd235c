"""CLIP score: cosine between an image and its prompt."""

import logging
from pathlib import Path
from typing import Any

import open_clip
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from transformers import CLIPTokenizer

from erasure.storage import read_tensors


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
        self.tokenizer = CLIPTokenizer.from_pretrained(suite / "tokenizer")
        config = open_clip.get_model_preprocess_cfg(self.model)
        self.mean, self.std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))

    @torch.no_grad()
    def cosine(self, images: UInt8[Tensor, "n 3 h w"], prompts: list[str]) -> Float[Tensor, " n"]:
        """Cosine in [-1, 1] between each image in [0, 255] and its prompt.

        One image's value does not depend on others.
        """
        length = self.model.context_length
        options = {
            "padding": "max_length",
            "truncation": True,
            "max_length": length,
            "return_tensors": "pt",
        }
        scores = []
        for start in range(0, len(images), 128):
            part = images[start : start + 128].float() / 255
            seen = self.model.encode_image((part - self.mean) / self.std, normalize=True)
            asked = self.model.encode_text(
                self.tokenizer(prompts[start : start + 128], **options).input_ids, normalize=True
            )
            scores.append((seen * asked).sum(1))
        return torch.cat(scores)
