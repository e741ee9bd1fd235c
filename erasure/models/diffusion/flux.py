"""FLUX.1, dev and schnell: text and image in joint attention, then in one row, by rectified flow.

Black Forest Labs, "Announcing Black Forest Labs" (2024), https://bfl.ai/blog/24-08-01-bfl; Labs et
al., "FLUX.1 Kontext" (2025), https://arxiv.org/abs/2506.15742, for the architecture.

A condition holds, in rows as wide as the transformer's text: T5's rows, and last CLIP's pooled
embedding, zero-padded. Latents are packed 2 by 2 and placed by row and column within `predict`.

dev is distilled from guided predictions and reads the guidance as a number. `predict` asks with
TRAINED, so that the contrast of two prompts is one, as diffusers' trainer does; a drawing asks with
the guidance that it is drawn by, and asks nothing of the empty prompt. schnell reads no guidance,
and drawings of it have none, whatever is asked for, as in the pipeline.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from erasure.errors import ModelError
from erasure.models.diffusion.flow_matching import EULER, FlowMatching
from erasure.models.diffusion.model import Condition, SampledPath, Sampling, TextPart, Times
from erasure.models.diffusion.tokens import tokens_of
from erasure.models.select import FLUX_SELECTIONS

TRAINED = 1.0  # the guidance that a training's predictions are asked with
ROWS = {True: 512, False: 256}  # of T5, with a guidance embedding (dev) and without (schnell)
DRAWN = {True: Sampling(28, 3.5, EULER), False: Sampling(4, 0.0, EULER)}


class Flux(FlowMatching):
    """A FluxPipeline.

    `rows` is how many T5 gives; `sampling` and `resolution` (pixels) how it is best drawn.
    """

    towers = ("text_encoder",)
    tokenizers = ("tokenizer",)
    readers = ("text_encoder_2",)
    selections = FLUX_SELECTIONS
    packed = 2
    slots_refusal = "FLUX reads its text from T5, of which nothing is edited or optimised"
    block_linear = re.compile(
        r"(.*transformer_blocks\.\d+)\.(ff(?:_context)?\.net\.(?:0\.proj|2)|proj_(?:mlp|out)"
        r"|attn\.(?:to_(?:q|k|v|out\.0)|add_[qkv]_proj|to_add_out))$"
    )

    def __init__(
        self, pipeline: FluxPipeline, *, name: str, rows: int | None = None,
        sampling: Sampling | None = None, resolution: int | None = None, **places: Any,
    ) -> None:  # fmt: skip
        super().__init__(pipeline, name=name, **places)
        _check(pipeline, name)
        self.reads_guidance = bool(self.backbone.config.guidance_embeds)
        self.rows = rows or ROWS[self.reads_guidance]
        if not 1 <= self.rows <= max(ROWS.values()):
            raise ModelError(
                f"max_sequence_length of {name} must be 1 to {max(ROWS.values())}; got {rows}."
            )
        self.sampling = sampling or DRAWN[self.reads_guidance]
        self.pipeline_options = {"max_sequence_length": self.rows}
        if resolution is not None:
            self.use_resolution(resolution)

    def states(self, condition: Condition) -> Float[Tensor, "b n d"]:
        """T5's rows."""
        return condition[:, :-1]

    def text_parts(self) -> list[TextPart]:
        return [TextPart(slice(0, self.rows), self.token_count)]

    def token_count(self, text: str) -> int:
        """The index of a text's last token among T5's, which have no start token."""
        tokenizer, longest = self._longest_text
        return max(0, min(len(tokens_of(tokenizer, text)), longest) - 1)

    @property
    def _longest_text(self) -> tuple[Any, int]:
        return self.pipeline.tokenizer_2, self.rows - 1  # the end token

    def pooled(self, condition: Condition) -> Float[Tensor, "b p"]:
        return condition[:, -1, : self.backbone.config.pooled_projection_dim]

    def onto_states(self, condition: Condition, seen: Condition) -> Condition:
        return condition.clamp(seen.amin(0), seen.amax(0))

    def _read(self, ids: Sequence[Int[Tensor, "b n"]], prompts: Sequence[str]) -> Condition:
        pooled = self._call("text_encoder", ids[0]).pooler_output
        rows = self._read_by_t5(prompts).to(pooled)
        pooled = F.pad(pooled, (0, rows.shape[-1] - pooled.shape[-1]))
        return torch.cat([rows, pooled[:, None]], dim=1)

    @torch.no_grad()
    def _read_by_t5(self, prompts: Sequence[str]) -> Float[Tensor, "b r d"]:
        # the pipeline's own, because T5 is never edited
        return self.pipeline._get_t5_prompt_embeds(list(prompts), max_sequence_length=self.rows)

    def _ask(
        self, z_t: Tensor, t: Tensor, condition: Condition, guidance: float = TRAINED
    ) -> Tensor:
        rows, pooled = self._pipeline_inputs(condition).values()
        height, width = (side // self.packed for side in z_t.shape[-2:])
        said = self._call(
            self.backbone_name, F.pixel_unshuffle(z_t, self.packed).flatten(2).mT,  # (b, hw, c)
            encoder_hidden_states=rows, pooled_projections=pooled,
            timestep=t.to(z_t.dtype) / 1000,  # the transformer's own unit, whatever the scheduler's
            guidance=z_t.new_full((len(z_t),), guidance) if self.reads_guidance else None,
            txt_ids=z_t.new_zeros(rows.shape[1], 3), img_ids=_places(height, width).to(z_t),
        ).sample  # fmt: skip
        return self._unpacked(said, height, width)

    def predict_guided(
        self, z_t: Float[Tensor, "b c h w"], t: Times, condition: Condition,
        empty: Condition,  # noqa: ARG002
        guidance: float,
    ) -> Float[Tensor, "b c h w"]:  # fmt: skip
        """The velocity by the guidance that the transformer reads, if it reads one."""
        low = self.backbone.dtype
        return self._ask(z_t.to(low), t, condition.to(low), guidance).to(z_t.dtype)

    @torch.no_grad()
    def sample_path(
        self, condition: Condition, *, steps: int, guidance: float, noise: Float[Tensor, "b c h w"]
    ) -> SampledPath:
        """Euler steps, of which only those at `predict`'s own guidance say what that predicts."""
        times, (_, arrivals) = self.descent(steps)
        z, path, said = noise.to(self.device), [], []
        for t, after in zip(times, arrivals, strict=True):
            path.append(z)
            said.append(self.predict_guided(z, t.expand(len(z)), condition, condition, guidance))
            z = z + (after - t / self.timesteps) * said[-1]
        is_predicted = guidance == TRAINED or not self.reads_guidance
        asked = torch.stack(said) if is_predicted else None
        return SampledPath(torch.stack(path), z, times, asked, None)

    def _drawn(self, latents: Tensor) -> Float[Tensor, "b c h w"]:
        side = self.latent_shape[1] // self.packed
        return self._unpacked(latents, side, side)

    def _unpacked(self, rows: Tensor, height: int, width: int) -> Float[Tensor, "b c h w"]:
        return F.pixel_shuffle(rows.mT.unflatten(2, (height, width)), self.packed)

    def _spacing(self, steps: int) -> dict[str, Any]:
        return {"sigmas": np.linspace(1.0, 1 / steps, steps)}

    def _pipeline_inputs(self, condition: Condition) -> dict[str, Tensor]:
        return {
            "prompt_embeds": self.states(condition),
            "pooled_prompt_embeds": self.pooled(condition),
        }


def _places(height: int, width: int) -> Int[Tensor, "n 3"]:
    """(0, row, column) of every place of the packed image, row by row."""
    return torch.cartesian_prod(torch.arange(1), torch.arange(height), torch.arange(width))


def _check(pipeline: Any, name: str) -> None:
    """ModelError for a part that is absent or text encoders that do not fit the transformer."""
    for part in ("text_encoder_2", "tokenizer_2"):
        if getattr(pipeline, part) is None:
            raise ModelError(f"{name} has no {part}, T5's; FLUX reads its text from it.")
    config = pipeline.transformer.config
    if config.patch_size != 1:
        raise ModelError(
            f"patch_size of the transformer of {name} must be 1, as FLUX's latents come packed; "
            f"got {config.patch_size}."
        )
    given = {
        "pooled_projection_dim": pipeline.text_encoder.config.hidden_size,
        "joint_attention_dim": pipeline.text_encoder_2.config.d_model,
    }
    for field, width in given.items():
        if config[field] != width:
            raise ModelError(
                f"{field} of the transformer of {name} must be {width}, as its text encoder gives; "
                f"got {config[field]}."
            )
    if given["pooled_projection_dim"] > given["joint_attention_dim"]:
        raise ModelError(f"T5 of {name} must be as wide as its CLIP at least.")
