"""Stable Diffusion XL: two text encoders, a pooled embedding, and the image's size as input.

Podell et al., "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis" (ICLR
2024), https://arxiv.org/abs/2307.01952.

A condition has one row more than there are tokens: the last holds the pooled embedding of the
second encoder, zero-padded to the width of the others (see `states`). It is thereby cut, joined,
subtracted and kept like any condition. The empty prompt's is zero where the pipeline's is.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from erasure.errors import ModelError
from erasure.models.diffusion.model import Condition
from erasure.models.diffusion.noise_prediction import NoisePrediction


class StableDiffusionXL(NoisePrediction):
    """A StableDiffusionXLPipeline, asked about uncropped images of the model's own size."""

    towers = ("text_encoder", "text_encoder_2")
    tokenizers = ("tokenizer", "tokenizer_2")

    def __init__(self, pipeline: StableDiffusionXLPipeline, *, name: str, **places: Any) -> None:
        parts: Any = pipeline
        if parts.text_encoder is None:
            raise ModelError(f"{name} has one text encoder only: a refiner draws no image itself.")
        super().__init__(pipeline, name=name, **places)
        if parts.tokenizer.get_vocab() != parts.tokenizer_2.get_vocab():
            raise ModelError(f"the two tokenizers of {name} must share one vocabulary.")
        if getattr(parts.vae.config, "latents_mean", None) is not None:
            raise ModelError(f"{name} shifts its latents (latents_mean); that is not supported.")
        unet = parts.unet.config
        given = parts.text_encoder_2.config.projection_dim + 6 * unet.addition_time_embed_dim
        if unet.projection_class_embeddings_input_dim != given:
            raise ModelError(
                f"projection_class_embeddings_input_dim of the UNet of {name} must be {given}, as "
                f"its pooled text and image size; got {unet.projection_class_embeddings_input_dim}."
            )

    def states(self, condition: Condition) -> Float[Tensor, "b n d"]:
        return condition[:, :-1]

    def pooled(self, condition: Condition) -> Float[Tensor, "b p"]:
        return condition[:, -1, : self.pipeline.text_encoder_2.config.projection_dim]

    def onto_states(self, condition: Condition, seen: Condition) -> Condition:
        return condition.clamp(seen.amin(0), seen.amax(0))

    def _read(self, ids: Sequence[Int[Tensor, "b n"]], prompts: Sequence[str]) -> Condition:  # noqa: ARG002
        first = self._call("text_encoder", ids[0], output_hidden_states=True)
        second = self._call("text_encoder_2", ids[1], output_hidden_states=True)
        # the layer before the last of each, as the UNet was trained
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        pooled = F.pad(second.text_embeds, (0, states.shape[-1] - second.text_embeds.shape[-1]))
        return torch.cat([states, pooled[:, None]], dim=1)

    def _ask(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        # original height and width, top and left of the crop, target height and width
        times = z_t.new_full((len(z_t), 6), self.resolution, dtype=torch.float32)
        times[:, 2:4] = 0
        added = {"text_embeds": self.pooled(condition), "time_ids": times}
        states = self.states(condition)
        return self._call(self.backbone_name, z_t, t, states, added_cond_kwargs=added).sample

    def _pipeline_inputs(self, condition: Condition) -> dict[str, Tensor]:
        return {
            "prompt_embeds": self.states(condition),
            "pooled_prompt_embeds": self.pooled(condition),
        }
