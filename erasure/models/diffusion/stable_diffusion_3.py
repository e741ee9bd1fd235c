"""Stable Diffusion 3 and 3.5: joint attention over image and text, by rectified flow.

Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (ICML 2024),
https://arxiv.org/abs/2403.03206.

A condition holds, in rows as wide as the transformer's text: both CLIP towers side by side, one row
per token; T5's rows, or zeros where there is none; last the two pooled embeddings, zero-padded.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModelWithProjection

from erasure.errors import ModelError
from erasure.models.diffusion.flow_matching import FlowMatching
from erasure.models.diffusion.model import Condition, Sampling, TextPart
from erasure.models.diffusion.tokens import tokens_of

ROWS = 256  # of T5, as the pipeline asks for


class StableDiffusion3(FlowMatching):
    """A StableDiffusion3Pipeline, with T5 or without.

    `rows` is how many of T5's, or of zeros in their place, follow the towers'; `sampling` how it is
    best drawn. Token embeddings in slots are read by the towers alone: T5 reads "" there.
    """

    towers = ("text_encoder", "text_encoder_2")
    tokenizers = ("tokenizer", "tokenizer_2")
    readers = ("text_encoder_3",)

    def __init__(
        self, pipeline: StableDiffusion3Pipeline, *, name: str, rows: int | None = None,
        sampling: Sampling | None = None, **places: Any,
    ) -> None:  # fmt: skip
        super().__init__(pipeline, name=name, **places)
        self.rows, self.sampling = rows or ROWS, sampling or self.sampling
        self.pipeline_options = {"max_sequence_length": self.rows}
        _check(pipeline, name)

    def states(self, condition: Condition) -> Float[Tensor, "b n d"]:
        """The towers' rows, and T5's if there are any."""
        return condition[:, : self.text_parts()[-1].rows.stop]

    def text_parts(self) -> list[TextPart]:
        window = self._text_window
        towers = TextPart(slice(0, window), self.token_count)
        t5 = TextPart(slice(window, window + self.rows), self._t5_count)
        return [towers, t5] if self.pipeline.text_encoder_3 is not None else [towers]

    def _t5_count(self, text: str) -> int:
        # T5 has no start token; the last of its rows may be the end token's
        return max(0, min(len(tokens_of(self.pipeline.tokenizer_3, text)), self.rows - 1) - 1)

    def pooled(self, condition: Condition) -> Float[Tensor, "b p"]:
        return condition[:, -1, : self.backbone.config.pooled_projection_dim]

    def onto_states(self, condition: Condition, seen: Condition) -> Condition:
        return condition.clamp(seen.amin(0), seen.amax(0))

    def _read(self, ids: Sequence[Int[Tensor, "b n"]], prompts: Sequence[str]) -> Condition:
        told = [
            self._call(tower, own, output_hidden_states=True)
            for tower, own in zip(self.towers, ids, strict=True)
        ]
        # the layer before the last of each, as the transformer was trained
        states = torch.cat([tower.hidden_states[-2] for tower in told], dim=-1)
        pooled = torch.cat([tower.text_embeds for tower in told], dim=-1)
        wide = self.backbone.config.joint_attention_dim
        states, pooled = (F.pad(part, (0, wide - part.shape[-1])) for part in (states, pooled))
        beside = self._beside(prompts).to(states)
        return torch.cat([states, beside, pooled[:, None]], dim=1)

    @torch.no_grad()
    def _beside(self, prompts: Sequence[str]) -> Float[Tensor, "b r d"]:
        """T5's rows, or zeros."""
        # the pipeline's own, because T5 is never edited
        return self.pipeline._get_t5_prompt_embeds(list(prompts), max_sequence_length=self.rows)

    def _ask(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        rows, pooled = self._pipeline_inputs(condition).values()
        return self._call(
            self.backbone_name, z_t, encoder_hidden_states=rows, pooled_projections=pooled,
            timestep=t,
        ).sample  # fmt: skip

    def _pipeline_inputs(self, condition: Condition) -> dict[str, Tensor]:
        return {
            "prompt_embeds": condition[:, :-1],
            "pooled_prompt_embeds": self.pooled(condition),
        }


def _check(pipeline: Any, name: str) -> None:
    """ModelError for text encoders that do not fit the transformer, or one another."""
    towers: list[Any] = [pipeline.text_encoder, pipeline.text_encoder_2]
    if not all(isinstance(tower, CLIPTextModelWithProjection) for tower in towers):
        raise ModelError(f"both CLIP towers of {name} must be CLIPTextModelWithProjection.")
    if pipeline.tokenizer.get_vocab() != pipeline.tokenizer_2.get_vocab():
        raise ModelError(f"the two tokenizers of {name} must share one vocabulary.")
    config = pipeline.transformer.config
    pooled = sum(tower.config.projection_dim for tower in towers)
    if config.pooled_projection_dim != pooled:
        raise ModelError(
            f"pooled_projection_dim of the transformer of {name} must be {pooled}, as its towers "
            f"give; got {config.pooled_projection_dim}."
        )
    least = max(pooled, sum(tower.config.hidden_size for tower in towers))
    t5 = pipeline.text_encoder_3
    if config.joint_attention_dim < least or (
        t5 is not None and t5.config.d_model != config.joint_attention_dim
    ):
        raise ModelError(
            f"joint_attention_dim of the transformer of {name} must be T5's width, and {least} at "
            f"least, as its towers give; got {config.joint_attention_dim}."
        )
