"""Stable Diffusion 1.x and 2.x (epsilon and v-prediction), through diffusers' own pipeline."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.func import functional_call

from erasure.errors import ModelError, SettingError
from erasure.models.diffusion import Condition, DiffusionModel
from erasure.models.slots import Slotted, fill, lay_out
from erasure_datasets.concept import Catalogue

BLOCK_LINEAR = re.compile(
    r"(.*transformer_blocks\.\d+)\.(ff\.net\.(?:0\.proj|2)|attn2\.to_(?:q|k|v|out\.0))$"
)


class StableDiffusion(DiffusionModel):
    """A StableDiffusionPipeline: its UNet and text encoder can be edited, the rest is untouched."""

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        *,
        name: str,
        folder: Path | None = None,
        catalogue: Catalogue | None = None,
    ) -> None:
        super().__init__()
        prediction = pipeline.scheduler.config.get("prediction_type", "epsilon")
        if prediction not in ("epsilon", "v_prediction"):
            raise ModelError(
                f"{name} predicts {prediction!r}; only epsilon and v_prediction are supported."
            )
        self.pipeline, self.name, self.folder, self.catalogue = pipeline, name, folder, catalogue
        self._is_v_prediction = prediction == "v_prediction"
        self.alphas_cumprod = pipeline.scheduler.alphas_cumprod.float()
        self._components: dict[str, nn.Module] = {
            "unet": pipeline.unet,
            "text_encoder": pipeline.text_encoder,
        }
        for module in (*self._components.values(), pipeline.vae):
            module.requires_grad_(False).eval()
        pipeline.set_progress_bar_config(disable=True)

    @property
    def device(self) -> torch.device:
        return self.pipeline.unet.device

    def use_scheduler(self, name: str) -> None:
        """Sample by the diffusers scheduler of this class name, with the model's noise schedule."""
        if type(self.pipeline.scheduler).__name__ != name:
            self.pipeline.scheduler = getattr(diffusers, name).from_config(
                self.pipeline.scheduler.config
            )

    def use_resolution(self, pixels: int) -> None:
        factor = self.pipeline.vae_scale_factor
        if pixels < factor or pixels % factor:
            raise SettingError(f"resolution must be a multiple of {factor}; got {pixels}.")
        self.pipeline.unet.register_to_config(sample_size=pixels // factor)

    @contextmanager
    def gradient_checkpointing(self, on: bool) -> Iterator[None]:
        unet = self.pipeline.unet
        if on:
            unet.enable_gradient_checkpointing()
        try:
            yield
        finally:
            unet.disable_gradient_checkpointing()

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        config = self.pipeline.unet.config
        return config.in_channels, config.sample_size, config.sample_size

    @property
    def resolution(self) -> int:
        return self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor

    def parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{component}.{name}": parameter
            for component, module in self._components.items()
            for name, parameter in module.named_parameters()
        }

    def module(self, name: str) -> nn.Module:
        component, _, rest = name.partition(".")
        return self._components[component].get_submodule(rest)

    def groups(self, place: Literal["ffn", "attention", "both"] = "ffn") -> list[list[str]]:
        """Names of the linear modules in each of the UNet's transformer blocks, in model order.

        "attention" is the cross-attention's.
        """
        found: dict[str, list[str]] = {}
        for name, module in self._components["unet"].named_modules():
            block = BLOCK_LINEAR.match(name) if isinstance(module, nn.Linear) else None
            if block and place in ("both", "ffn" if block[2].startswith("ff.") else "attention"):
                found.setdefault(block[1], []).append(f"unet.{name}")
        return list(found.values())

    def _call(
        self, component: str, arguments: tuple[object, ...], options: dict[str, object]
    ) -> object:
        module, prefix = self._components[component], component + "."
        if not self._asks_original:
            return module(*arguments, **options)
        kept = {
            n.removeprefix(prefix): t for n, t in self.originals.items() if n.startswith(prefix)
        }
        return functional_call(module, kept, arguments, options)

    def encode(self, prompts: Sequence[str]) -> Condition:
        tokens = self.tokenize(prompts)
        return self._call("text_encoder", (tokens,), {}).last_hidden_state  # type: ignore[attr-defined]

    def tokenize(self, prompts: Sequence[str]) -> Int[Tensor, "b n"]:
        """Token ids as the pipeline makes them: padded and cut to the encoder's positions."""
        encoded = self.pipeline.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self._text_window,
            return_tensors="pt",
        )
        return encoded.input_ids.to(self.device)

    @property
    def _text_window(self) -> int:
        return min(
            self.pipeline.tokenizer.model_max_length,
            self.pipeline.text_encoder.config.max_position_embeddings,
        )

    def token_count(self, text: str) -> int:
        """Tokens of a text without the end token and padding: the index of its last token.

        The start token is 0.
        """
        return min(
            len(self.pipeline.tokenizer(text).input_ids) - 2,
            self._text_window - 2,
        )

    def open_slots(self, parts: Sequence[tuple[str, str]], count: int) -> Slotted:
        tokenizer = self.pipeline.tokenizer

        def ids(text: str) -> list[int]:
            return tokenizer(text, add_special_tokens=False).input_ids if text else []

        try:
            slotted = lay_out(
                [(ids(before), ids(after)) for before, after in parts],
                count,
                ends=(tokenizer.bos_token_id, tokenizer.eos_token_id),
                padding=tokenizer.pad_token_id,
                length=self._text_window,
            )
        except ValueError as error:
            raise SettingError(f"tokens must be fewer: {error}.") from error
        return Slotted(slotted.ids.to(self.device), slotted.places.to(self.device))

    def encode_slots(self, slotted: Slotted, vectors: Float[Tensor, "b k w"]) -> Condition:
        # a hook, because every release of transformers reads the embeddings from this module
        table = self.pipeline.text_encoder.get_input_embeddings()
        hook = table.register_forward_hook(
            lambda _module, _inputs, embedded: fill(embedded, slotted.places, vectors)
        )
        try:
            return self._call("text_encoder", (slotted.ids,), {}).last_hidden_state  # type: ignore[attr-defined]
        finally:
            hook.remove()

    @property
    def token_table(self) -> Float[Tensor, "v w"]:
        return self.pipeline.text_encoder.get_input_embeddings().weight

    @property
    def special_tokens(self) -> list[int]:
        return sorted(set(self.pipeline.tokenizer.all_special_ids))

    def decode(self, tokens: Int[Tensor, " k"]) -> str:
        return self.pipeline.tokenizer.decode(tokens.tolist())

    def predict(
        self, z_t: Float[Tensor, "b c h w"], t: Int[Tensor, " b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        predicted = self._call("unet", (z_t, t, condition), {}).sample  # type: ignore[attr-defined]
        if not self._is_v_prediction:
            return predicted
        signal, spread = self.levels(t)
        return signal * predicted + spread * z_t  # v = signal * eps - spread * z0

    @torch.no_grad()
    def to_latents(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        vae = self.pipeline.vae
        pixels = images.to(vae.device, vae.dtype).div(127.5).sub(1)
        return vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor

    @torch.no_grad()
    def sample_path(
        self, condition: Condition, *, steps: int, guidance: float, generator: torch.Generator
    ) -> tuple[Float[Tensor, "s1 b c h w"], Int[Tensor, " s"]]:
        scheduler: Any = DDIMScheduler.from_config(
            self.pipeline.scheduler.config, prediction_type="epsilon", clip_sample=False
        )
        scheduler.set_timesteps(steps, device=self.device)
        z = torch.randn((len(condition), *self.latent_shape), generator=generator).to(self.device)
        empty = self.encode([""]).expand_as(condition)
        path = [z]
        for t in scheduler.timesteps:
            batch = t.expand(len(z))
            none, some = self.predict(z, batch, empty), self.predict(z, batch, condition)
            z = scheduler.step(none + guidance * (some - none), t, z).prev_sample
            path.append(z)
        return torch.stack(path), scheduler.timesteps

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str] | Condition,
        *,
        steps: int,
        guidance: float,
        generators: Sequence[torch.Generator],
    ) -> UInt8[Tensor, "b 3 h w"]:
        if isinstance(prompts, Tensor):
            asked: dict[str, Any] = {"prompt_embeds": prompts}
        else:
            asked = {"prompt": list(prompts)}
        drawn: Any = self.pipeline(
            **asked,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=list(generators),
            output_type="pt",
        )
        return _as_bytes(drawn.images)

    def _to_images(self, latents: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b 3 h w"]:
        """Decoded as the pipeline does it."""
        vae: Any = self.pipeline.vae
        pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample
        return _as_bytes(pixels.add(1).div(2).clamp(0, 1))


def _as_bytes(pixels: Float[Tensor, "b 3 h w"]) -> UInt8[Tensor, "b 3 h w"]:
    return pixels.mul(255).round().to(torch.uint8).cpu()
