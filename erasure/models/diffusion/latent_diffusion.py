"""What Stable Diffusion 1.x, 2.x, XL and 3 and FLUX share, through diffusers' own pipelines."""

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import diffusers
import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.func import functional_call

from erasure.errors import SettingError
from erasure.models.diffusion.checks import check_pipeline
from erasure.models.diffusion.decoding import decoded, encoded
from erasure.models.diffusion.gradient_checkpointing import checkpointing
from erasure.models.diffusion.model import Condition, DiffusionModel
from erasure.models.diffusion.slots import NoSlotsError, Slotted, fill, repadded
from erasure.models.diffusion.tokens import beyond, refuse_beyond, tokens_of, with_slots, words_of
from erasure.training.progress import shown
from erasure_datasets.concept import Catalogue

ENCODED_AT_ONCE = 64


class LatentDiffusion(DiffusionModel):
    """A pipeline whose backbone and text encoders can be edited; the rest is untouched.

    `towers` names its text encoders and `tokenizers` the tokenizer of each, which share one
    vocabulary. Token embeddings of several towers stand side by side in one vector. `readers` are
    text encoders beside them, which a pipeline may lack and which are never edited.
    `block_linear` finds the block and the place of a linear module by its name. `packed` latents
    along each side are laid into the channels of one before the backbone sees them.
    """

    towers: ClassVar[tuple[str, ...]]
    tokenizers: ClassVar[tuple[str, ...]]
    readers: ClassVar[tuple[str, ...]] = ()
    block_linear: ClassVar[re.Pattern[str]]
    packed: ClassVar[int] = 1
    pipeline: Any
    source: Any = None  # a user's pipeline of which `pipeline` is a copy

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        *,
        name: str,
        folder: Path | None = None,
        catalogue: Catalogue | None = None,
    ) -> None:
        super().__init__()
        self.pipeline = pipeline
        check_pipeline(pipeline, self.backbone_name, self.towers, self.tokenizers, name)
        self.name, self.folder, self.catalogue = name, folder, catalogue
        self._take_schedule()
        self._components: dict[str, nn.Module] = {
            part: getattr(self.pipeline, part) for part in (self.backbone_name, *self.towers)
        }
        for module in (*self._components.values(), *self._read_beside(), self.pipeline.vae):
            module.requires_grad_(False).eval()
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline_options: dict[str, object] = {}  # of the family, for each call
        self._memory: dict[str, Tensor] = {}
        self._remembers_original_only = False

    @abstractmethod
    def _take_schedule(self) -> None:
        """Set `timesteps`; ModelError for a backbone or scheduler that is not the family's."""

    @abstractmethod
    def _schedule(self) -> tuple[Tensor, object]:
        """What decides how noise and latents are mixed, and what the backbone predicts."""

    @abstractmethod
    def _read(self, ids: Sequence[Int[Tensor, "b n"]], prompts: Sequence[str]) -> Condition:
        """The condition of prompts as token ids, one tensor per tokenizer.

        `prompts` are their texts, where they have any, for readers beside the towers.
        """

    @abstractmethod
    def _ask(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The backbone's own output."""

    @abstractmethod
    def _pipeline_inputs(self, condition: Condition) -> dict[str, Tensor]:
        """An encoded prompt by the names of the pipeline's arguments."""

    @property
    def backbone(self) -> Any:
        return getattr(self.pipeline, self.backbone_name)

    def _read_beside(self) -> list[nn.Module]:
        found = (getattr(self.pipeline, reader) for reader in self.readers)
        return [network for network in found if network is not None]

    @property
    def middle(self) -> nn.Module:
        blocks = getattr(self.backbone, "transformer_blocks", None)
        return self.backbone.mid_block if blocks is None else blocks[len(blocks) // 2]

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    def use_scheduler(self, name: str) -> None:
        """Sample by the diffusers scheduler of this class name, with the model's noise schedule.

        SettingError for one of flow matching where noise is predicted, or the other way round.
        """
        own = type(self.pipeline.scheduler).__name__
        if own.startswith("FlowMatch") != name.startswith("FlowMatch"):
            raise SettingError(f"{self.name} is sampled as by {own}; {name} cannot sample it.")
        if own != name:
            self.pipeline.scheduler = getattr(diffusers, name).from_config(
                self.pipeline.scheduler.config
            )

    def gradient_checkpointing(self, on: bool) -> AbstractContextManager[None]:
        encoders = [getattr(self.pipeline, tower) for tower in self.towers]
        return checkpointing(self.backbone, encoders) if on else nullcontext()

    @contextmanager
    def memorised(self, prompts: Sequence[str], *, encoders_rest: bool = True) -> Iterator[None]:
        is_edited = any(name.startswith("text_encoder") for name in self.originals)
        resting = [self.pipeline.vae]
        if encoders_rest:
            resting += self._read_beside()
        if encoders_rest and not is_edited:
            resting += [getattr(self.pipeline, tower) for tower in self.towers]
        texts, device = list(dict.fromkeys(prompts)), self.device
        try:
            with self.original():
                for start in shown(range(0, len(texts), ENCODED_AT_ONCE), "reading prompts"):
                    part = texts[start : start + ENCODED_AT_ONCE]
                    self._memory |= zip(part, self.encode(part), strict=True)
            self._remembers_original_only = is_edited
            for module in resting:
                module.to("cpu")
            yield
        finally:
            self._memory = {}
            for module in resting:
                module.to(device)

    def use_resolution(self, pixels: int) -> None:
        config = self.backbone.config
        factor = self.pipeline.vae_scale_factor * self._patch
        if pixels < factor or pixels % factor:
            raise SettingError(f"resolution must be a multiple of {factor}; got {pixels}.")
        largest = factor * config.get("pos_embed_max_size", pixels)  # a transformer's places
        if pixels > largest:
            raise SettingError(
                f"resolution of {self.name} must be at most {largest}; got {pixels}."
            )
        side = pixels // self.pipeline.vae_scale_factor
        if "sample_size" in config:
            self.backbone.register_to_config(sample_size=side)
        else:
            self.pipeline.default_sample_size = side

    @property
    def _patch(self) -> int:
        """Latents along a side of what the backbone takes for one place of the image."""
        return self.packed * self.backbone.config.get("patch_size", 1)

    @property
    def _sample_size(self) -> Any:
        config = self.backbone.config  # FLUX's says nothing of images
        return config.sample_size if "sample_size" in config else self.pipeline.default_sample_size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.resolution // self.pipeline.vae_scale_factor
        return self.backbone.config.in_channels // self.packed**2, side, side

    @property
    def resolution(self) -> int:
        side = self._sample_size
        return (side if isinstance(side, int) else side[0]) * self.pipeline.vae_scale_factor

    def parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{component}.{name}": parameter
            for component, module in self._components.items()
            for name, parameter in module.named_parameters()
        }

    def constants(self) -> dict[str, Tensor | str]:
        parts, config = self.pipeline, self.backbone.config
        found: dict[str, Tensor | str] = {
            f"vae.{name}": parameter for name, parameter in parts.vae.named_parameters()
        }
        heads = (config.get("attention_head_dim"), config.get("num_attention_heads"))
        schedule, kind = self._schedule()
        for network in self._read_beside():
            found |= {f"beside.{name}": tensor for name, tensor in network.named_parameters()}
        said = [
            kind,
            parts.vae.config.scaling_factor,
            self._sample_size,
            heads,
        ]
        said += [getattr(parts, tower).config.hidden_act for tower in self.towers]
        said += [sorted(getattr(parts, own).get_vocab().items()) for own in self.tokenizers]
        return found | {"schedule": schedule, "said": repr(said)}

    def module(self, name: str) -> nn.Module:
        component, _, rest = name.partition(".")
        return self._components[component].get_submodule(rest)

    def groups(self, place: Literal["ffn", "attention", "both"] = "ffn") -> list[list[str]]:
        """Names of the linear modules in each of the backbone's transformer blocks, in model order.

        "attention" is that to the text.
        """
        found: dict[str, list[str]] = {}
        for name, module in self.backbone.named_modules():
            block = self.block_linear.match(name) if isinstance(module, nn.Linear) else None
            if block and place in ("both", "attention" if block[2].startswith("attn") else "ffn"):
                found.setdefault(block[1], []).append(f"{self.backbone_name}.{name}")
        return list(found.values())

    def _call(self, component: str, *arguments: object, **options: object) -> Any:
        module = self._components[component]
        if not self._asks_original:
            return module(*arguments, **options)
        return functional_call(module, self.kept(f"{component}.", module), arguments, options)

    def encode(self, prompts: Sequence[str]) -> Condition:
        is_known = self._asks_original or not self._remembers_original_only
        if is_known and self._memory and all(prompt in self._memory for prompt in prompts):
            return torch.stack([self._memory[prompt] for prompt in prompts])
        condition = self._read([self.tokenize(prompts, own) for own in self.tokenizers], prompts)
        if self.pipeline.config.get("force_zeros_for_empty_prompt", False):
            is_text = torch.tensor([prompt != "" for prompt in prompts], device=condition.device)
            condition = condition * is_text.view(-1, 1, 1)
        return condition.to(self.device)

    def tokenize(self, prompts: Sequence[str], tokenizer: str = "tokenizer") -> Int[Tensor, "b n"]:
        """Token ids as the pipeline makes them: padded and cut to the encoder's positions."""
        encoded = getattr(self.pipeline, tokenizer)(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self._text_window,
            return_tensors="pt",
        )
        # copies that do not wait for what the device does now
        return encoded.input_ids.to(self.pipeline.text_encoder.device, non_blocking=True)

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
        return min(len(tokens_of(self.pipeline.tokenizer, text)), self._longest_text[1])

    @property
    def _longest_text(self) -> tuple[Any, int]:
        """(a tokenizer, how many of its tokens a text may have to be read whole)."""
        return self.pipeline.tokenizer, self._text_window - 2  # start and end

    def check_window(self, prompts: Sequence[str]) -> None:
        refuse_beyond(*self._longest_text, prompts, self.name)

    def beyond_window(self, prompts: Sequence[str]) -> list[str]:
        return beyond(*self._longest_text, prompts)

    def open_slots(self, parts: Sequence[tuple[str, str]], count: int) -> Slotted:
        if self.slots_refusal:
            raise NoSlotsError(f"{self.slots_refusal}; {self.name} has no slots for vectors.")
        slotted = with_slots(
            parts, count, tokenizer=self.pipeline.tokenizer, window=self._text_window
        )
        ids, places = slotted.ids, slotted.places
        return Slotted(*(tensor.to(self.device, non_blocking=True) for tensor in (ids, places)))

    def encode_slots(self, slotted: Slotted, vectors: Float[Tensor, "b k w"]) -> Condition:
        tables = self._tables()
        parts = vectors.split([table.weight.shape[1] for table in tables], dim=-1)
        ids = []
        with ExitStack() as stack:
            for table, part, tokenizer in zip(tables, parts, self.tokenizers, strict=True):
                # a hook, because every release of transformers reads embeddings from this module
                def filled(_table: Any, _ids: Any, said: Tensor, part: Tensor = part) -> Tensor:
                    return fill(said, slotted.places, part)

                stack.callback(table.register_forward_hook(filled).remove)
                own = getattr(self.pipeline, tokenizer)
                ids.append(repadded(slotted, own.eos_token_id, own.pad_token_id))
            return self._read(ids, [""] * len(vectors))

    def _tables(self) -> list[nn.Embedding]:
        return [getattr(self.pipeline, tower).get_input_embeddings() for tower in self.towers]

    @property
    def token_table(self) -> Float[Tensor, "v w"]:
        tables = [table.weight for table in self._tables()]
        return tables[0] if len(tables) == 1 else torch.cat(tables, dim=1)

    @property
    def special_tokens(self) -> list[int]:
        return sorted(set(self.pipeline.tokenizer.all_special_ids))

    @cached_property
    def word_tokens(self) -> Int[Tensor, " v"]:
        return words_of(self.pipeline.tokenizer, len(self.token_table))

    def decode(self, tokens: Int[Tensor, " k"]) -> str:
        return self.pipeline.tokenizer.decode(tokens.tolist())

    def _answer(self, z_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The backbone's own output, in the precision of z_t."""
        low = self.backbone.dtype
        return self._ask(z_t.to(low), t, condition.to(low)).to(z_t.dtype)

    def to_latents(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        return encoded(self.pipeline.vae, images)

    def to_images(self, latents: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b 3 h w"]:
        return decoded(self.pipeline.vae, latents, side=self.resolution)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str] | Condition,
        *,
        steps: int,
        guidance: float,
        generators: Sequence[torch.Generator],
    ) -> UInt8[Tensor, "b 3 h w"]:
        asked: dict[str, Any] = {"prompt": list(prompts)}
        if isinstance(prompts, Tensor):
            asked = {**self._pipeline_inputs(prompts)}
        drawn: Any = self.pipeline(
            **asked,
            **self.pipeline_options,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=list(generators),
            height=self.resolution,
            width=self.resolution,
            output_type="latent",
        )
        return self.to_images(self._drawn(drawn.images))

    def _drawn(self, latents: Tensor) -> Float[Tensor, "b c h w"]:
        """What the pipeline hands out as latents, as `to_images` takes them."""
        return latents
