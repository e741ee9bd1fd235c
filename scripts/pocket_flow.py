"""Pocket-flow: a small Stable Diffusion 3 that draws Pocket Canvas, trained by rectified flow.

The transformer is diffusers' own, on pocket's latents. Both of its text encoders are pocket's text
tower and there is no T5, for which StableDiffusion3Pipeline writes 256 rows of zeros. Liu et al.,
"Flow Straight and Fast" (2022); Esser et al., "Scaling Rectified Flow Transformers" (2024).
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from diffusers.models.attention_processor import Attention
from pocket_training import CPU, SUITE, WORK, Average, Budget, log, save_half
from pocket_unet import load_latents, posterior_mean
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.models.diffusion.pocket_flow import pocket_flow
from erasure_datasets.canvas import STYLES
from erasure_datasets.captions import random_caption

EMPTY_ROWS = 256  # the pipeline's max_sequence_length, all zeros without T5
SHIFT = 1.5
LAYERS, HEAD, TEXT = 6, 32, 128
CAPTIONS = 128  # drawn for each pair


def new_transformer(width: int = 160, layers: int = LAYERS) -> SD3Transformer2DModel:
    """5.4 M weights at width 160; no block does anything yet (DiT's adaLN-Zero)."""
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=layers,
        attention_head_dim=HEAD,
        num_attention_heads=width // HEAD,
        joint_attention_dim=2 * TEXT,
        caption_projection_dim=width,
        pooled_projection_dim=2 * TEXT,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
            if name == "proj_out" or "norm" in name:
                nn.init.zeros_(module.weight)
    return transformer


def new_pipeline(transformer: SD3Transformer2DModel) -> StableDiffusion3Pipeline:
    """The transformer among pocket's other parts, in float32."""
    return pocket_flow(SUITE, transformer, FlowMatchEulerDiscreteScheduler(shift=SHIFT))


def save(pipeline: StableDiffusion3Pipeline, folder: Path) -> None:
    """Write all of it in float16, for `open_folder`; its networks are in float16 then."""
    pipeline.save_config(folder)
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    for name in ("transformer", "vae"):
        getattr(pipeline, name).half().save_pretrained(folder / name)
    for number in ("", "_2"):
        encoder = getattr(pipeline, f"text_encoder{number}")
        encoder.config.save_pretrained(folder / f"text_encoder{number}")
        save_half(encoder.state_dict(), folder / f"text_encoder{number}" / "model.safetensors")
        getattr(pipeline, f"tokenizer{number}").save_pretrained(folder / f"tokenizer{number}")


def open_folder(folder: Path) -> StableDiffusion3Pipeline:
    """In float32; diffusers wants to be told that there is no T5."""
    return StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None, local_files_only=True
    )


class RepeatedRow:
    """SD3's joint attention, in which the last row of text stands for `repeats` (n,) equal rows.

    A key that is there k times weighs as much as one whose logit is larger by log k; rows of text
    have no positions, so that equal ones stay equal. It is exact, in 97 rows instead of 352.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,  # noqa: ARG002
        *,
        repeats: Tensor,
    ) -> tuple[Tensor, Tensor]:
        image, text = hidden_states, encoder_hidden_states

        def joined(of_image: Tensor, of_text: Tensor) -> list[Tensor]:
            parts = of_image, of_text
            return [part.unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in parts]

        query, added_query = joined(attn.to_q(image), attn.add_q_proj(text))
        key, added_key = joined(attn.to_k(image), attn.add_k_proj(text))
        query = torch.cat([attn.norm_q(query), attn.norm_added_q(added_query)], dim=2)
        key = torch.cat([attn.norm_k(key), attn.norm_added_k(added_key)], dim=2)
        value = torch.cat(joined(attn.to_v(image), attn.add_v_proj(text)), dim=2)
        more = F.pad(repeats.log().view(-1, 1, 1, 1), (key.shape[2] - 1, 0))  # (n, 1, 1, 97)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=more.to(query.dtype))
        mixed = mixed.transpose(1, 2).flatten(2)  # (n, 97, width)
        image, text = mixed.split([image.shape[1], text.shape[1]], dim=1)
        return attn.to_out[0](image), text if attn.context_pre_only else attn.to_add_out(text)


@dataclass(frozen=True)
class Batch:
    """What the transformer is asked (n of each), and the velocity that it should give."""

    z_t: Tensor  # (n, 4, 16, 16)
    t: Tensor  # (n,), 1000 sigma
    rows: Tensor  # (n, 33, 256), the last of zeros
    pooled: Tensor  # (n, 256)
    repeats: Tensor  # (n,), how many rows of zeros there are
    target: Tensor  # (n, 4, 16, 16)


class Batches:
    """Latents between image and noise, with captions as the pipeline encodes them.

    Everything lies and is drawn on the device. A pair is the number object * 16 + style.
    """

    def __init__(
        self,
        latents: Tensor,
        pipeline: StableDiffusion3Pipeline,
        *,
        captions: int = CAPTIONS,
        seed: int = 1,
    ) -> None:
        """`latents` (k, pairs, 4, 16, 16), on the device; so many random captions of each pair."""
        self.device = latents.device
        self.latents = latents.float().transpose(0, 1).contiguous()  # (pairs, k, 4, 16, 16)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        rng, pairs = np.random.default_rng(seed), range(len(self.latents))
        drawn = [
            random_caption(*divmod(pair, len(STYLES)), rng)
            for pair in pairs
            for _ in range(captions)
        ]
        self.texts = sorted({text for text, _, _ in drawn})
        place = {text: number for number, text in enumerate(self.texts)}
        numbers = torch.tensor([place[text] for text, _, _ in drawn], device=self.device)
        self.numbers = numbers.view(-1, captions)  # (pairs, captions), into texts
        full = torch.tensor([has_o and has_s for _, has_o, has_s in drawn], device=self.device)
        self.full = full.view(-1, captions)
        encoded = [encode(pipeline, self.texts[i : i + 512]) for i in range(0, len(place), 512)]
        self.rows, self.pooled = (torch.cat(part) for part in zip(*encoded, strict=True))

    def draw(self, batch: int) -> Batch:
        def below(end: int) -> Tensor:
            return torch.randint(end, (batch,), generator=self.generator, device=self.device)

        pairs, chosen = below(len(self.latents)), below(self.numbers.shape[1])
        references = self.latents[pairs]  # (n, k, 4, 16, 16)
        z0 = references[torch.arange(batch, device=self.device), below(references.shape[1])]
        sigma, repeats = self._sigmas(batch).view(-1, 1, 1, 1), self._repeats(batch)
        noise = torch.randn(z0.shape, generator=self.generator, device=self.device)
        z_t = (1 - sigma) * z0 + sigma * noise
        # E[noise - z0 | z_t] = (z_t - E[z0 | z_t]) / sigma, where the caption says which pair it is
        mean = posterior_mean(z_t, references, 1 - sigma, sigma)
        full = self.full[pairs, chosen].view(-1, 1, 1, 1)
        target = torch.where(full, (z_t - mean) / sigma, noise - z0)
        number = self.numbers[pairs, chosen]
        return Batch(
            z_t, 1000 * sigma.flatten(), self.rows[number], self.pooled[number], repeats, target
        )

    def _sigmas(self, batch: int) -> Tensor:
        """Three quarters logit-normal, the others uniform: drawing starts at 1, which is rare else.

        Both are moved towards noise by the scheduler's shift.
        """
        normal = torch.randn(batch, generator=self.generator, device=self.device).sigmoid()
        even = torch.rand(batch, generator=self.generator, device=self.device)
        even[: batch - batch // 4] = normal[: batch - batch // 4]
        return (SHIFT * even / (1 + (SHIFT - 1) * even)).clamp(min=2e-3)

    def _repeats(self, batch: int) -> Tensor:
        """Half as the pipeline does; half fewer, so that a shorter text draws the same."""
        power = torch.rand(batch, generator=self.generator, device=self.device)
        power[: batch // 2] = 1
        order = torch.randperm(batch, generator=self.generator, device=self.device)
        return (power[order] * math.log(EMPTY_ROWS)).exp().round()


@torch.no_grad()
def encode(pipeline: StableDiffusion3Pipeline, texts: list[str]) -> tuple[Tensor, Tensor]:
    """The pipeline's own (rows (n, 33, 256), pooled (n, 256)), with one row of zeros."""
    rows, _, pooled, _ = pipeline.encode_prompt(
        texts, None, None, do_classifier_free_guidance=False, max_sequence_length=1
    )
    return rows, pooled


def predict(transformer: SD3Transformer2DModel, batch: Batch) -> Tensor:
    """The velocity; the transformer attends by RepeatedRow."""
    return transformer(
        batch.z_t,
        encoder_hidden_states=batch.rows,
        pooled_projections=batch.pooled,
        timestep=batch.t,
        joint_attention_kwargs={"repeats": batch.repeats},
        return_dict=False,
    )[0]


class Learner:
    """AdamW and an average of the weights."""

    def __init__(self, transformer: SD3Transformer2DModel, learning_rate: float) -> None:
        self.transformer, self.learning_rate = transformer, learning_rate
        transformer.set_attn_processor(RepeatedRow())
        self.weights = list(transformer.parameters())
        fused = self.weights[0].is_cuda
        self.optimiser = torch.optim.AdamW(
            self.weights, learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=fused
        )
        self.average = Average(transformer, 0.998)

    def learn(self, batch: Batch, rate: float) -> Tensor:
        """One step; the loss, still on the device."""
        loss = (predict(self.transformer, batch) - batch.target).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate * rate
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.average.update()
        return loss.detach()


def train(
    minutes: float,
    *,
    learning_rate: float = 1e-3,
    width: int = 160,
    batch: int = 512,
    seed: int = 1,
    out: Path | None = None,
    resume: bool = False,
    device: torch.device = CPU,
) -> None:
    """Train for `minutes`, after loading; the pipeline's folder is `out` or `.train/flow-SEED`.

    `resume` starts from the weights in that folder.
    """
    began, folder = time.monotonic(), out or WORK / f"flow-{seed}"
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    transformer = (
        SD3Transformer2DModel.from_pretrained(folder / "transformer")
        if resume
        else new_transformer(width)
    )
    pipeline = new_pipeline(transformer).to(device)
    batches = Batches(load_latents(device).to(device), pipeline, seed=seed)
    log.info(
        "flow: %d captions, %.2f M weights, ready after %.0f s",
        len(batches.texts), transformer.num_parameters() / 1e6, time.monotonic() - began,
    )  # fmt: skip
    learner, budget, losses = Learner(transformer.train(), learning_rate), Budget(minutes), []
    for step in budget.steps():
        losses.append(learner.learn(batches.draw(batch), budget.rate()))
        if step % 100 == 0:
            recent = mean_loss(losses[-100:])
            log.info("flow %5d  %5.2f min  loss %.4f", step, budget.progress() * minutes, recent)
            if not math.isfinite(recent):
                raise SystemExit(f"flow met a loss that is not finite by step {step}")
    learner.average.copy_to(transformer)
    save(pipeline.to("cpu"), folder)
    facts = {
        "minutes": minutes, "steps": budget.step, "batch": batch, "width": width, "seed": seed,
        "learning_rate": learning_rate, "loss": round(mean_loss(losses[-500:]), 4),
        "resumed": resume,
    }  # fmt: skip
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    log.info("flow: %d steps, loss %.4f, in %s", budget.step, facts["loss"], folder)


def mean_loss(losses: list[Tensor]) -> float:
    return float(torch.stack(losses).mean())
