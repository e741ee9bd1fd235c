"""What every text-to-image diffusion model offers to methods, attacks and evaluation."""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from textwrap import shorten
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int, Real, UInt8
from torch import Tensor, nn

from erasure.errors import DivergedError, SettingError
from erasure.models.diffusion.slots import Slotted
from erasure.models.editable import Editable
from erasure.models.select import SELECTIONS
from erasure_datasets.concept import Catalogue, Concept
from erasure_datasets.errors import DataWarning

Condition = Float[Tensor, "b n d"]  # a row per token; what else a family needs, in rows after them
Times = Real[Tensor, " b"]  # in [0, model.timesteps), whole numbers where a family knows no others
Level = Float[Tensor, "b 1 1 1"]
Nudge = Callable[[Float[Tensor, "b c h w"], Times, Float[Tensor, "b c h w"]], Tensor]


@dataclass(frozen=True)
class Sampling:
    """How a model must be sampled, where it or its edit demands it (a one-step generator)."""

    steps: int
    guidance: float
    scheduler: str


@dataclass(frozen=True)
class SampledPath:
    """Latents before each timestep and the finished ones, and what is predicted at each.

    `asked` is predicted under the condition, `none` under the empty prompt, by models whose paths
    take that anyway.
    """

    latents: Float[Tensor, "s b c h w"]
    finished: Float[Tensor, "b c h w"]
    timesteps: Real[Tensor, " s"]
    asked: Float[Tensor, "s b c h w"] | None
    none: Float[Tensor, "s b c h w"] | None

    def cpu(self) -> "SampledPath":
        given = [getattr(self, item.name) for item in fields(self)]
        parts: Any = [part if part is None else part.cpu() for part in given]
        return SampledPath(*parts)


@dataclass(frozen=True)
class TextPart:
    """The rows of `states` in which one tokenizer's tokens stand.

    `count` gives, within them, the index of the last token of a text that a prompt begins with.
    """

    rows: slice
    count: Callable[[str], int]


@dataclass(frozen=True)
class Known:
    """Finished latents, of which a part is kept while the rest is drawn."""

    z0: Float[Tensor, "b c h w"]
    is_kept: Bool[Tensor, "b 1 h w"]


class DiffusionModel(Editable):
    """An editable text-to-image model; see `Editable` for how it is edited."""

    selections = SELECTIONS
    catalogue: Catalogue | None
    sampling: Sampling | None = None
    taken: Sequence[Concept] = ()  # what edits in its weights took before: it must stay gone
    text_maps: ClassVar[str] = "xattn.kv"  # the selection of linear maps that read `states`
    slots_refusal: ClassVar[str] = ""  # why no slots can be opened, if none can
    pooled_maps: ClassVar[str] = ""  # of those that read `pooled` and nothing else, if any do
    backbone_name: ClassVar[str]  # what the names of the backbone's weights begin with
    timesteps: int  # how many there are in training

    @property
    @abstractmethod
    def backbone(self) -> nn.Module:
        """The network that is asked at every timestep: a UNet or a transformer."""

    @property
    @abstractmethod
    def middle(self) -> nn.Module:
        """The backbone's block half-way, whose output says what the model makes of an image."""

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Condition:
        """What the network is told of each prompt; "" is the unconditional one."""

    @abstractmethod
    def states(self, condition: Condition) -> Float[Tensor, "b n d"]:
        """The rows that belong to tokens, which cross-attention reads."""

    @abstractmethod
    def text_parts(self) -> list[TextPart]:
        """Whose rows `states` are, in order."""

    @abstractmethod
    def pooled(self, condition: Condition) -> Float[Tensor, "b p"] | None:
        """The vector for all of a prompt that the backbone reads beside the states, if it does."""

    @abstractmethod
    def onto_states(self, condition: Condition, seen: Condition) -> Condition:
        """The nearest condition whose states a text could have; gradients pass.

        That is the ellipsoid of the text encoder's last LayerNorm: gain * z + bias with mean(z) 0
        and |z|^2 = d. Where the states are not the encoder's last, each number is kept within what
        the conditions `seen` have there.
        """

    @abstractmethod
    def check_window(self, prompts: Sequence[str]) -> None:
        """SettingError, with its tokens, for a prompt of which the text encoder reads a part."""

    @abstractmethod
    def beyond_window(self, prompts: Sequence[str]) -> list[str]:
        """Those of the prompts of which the text encoder reads a part."""

    def warn_beyond(self, prompts: Sequence[str], what: str) -> None:
        """A warning, in one line, of prompts that the text encoder will cut; `what` they are."""
        cut = self.beyond_window(prompts)
        if cut:
            warnings.warn(
                f"{len(cut)} of the {what} are longer than the text encoder of {self.name} reads, "
                f"and their ends will be left out; the first is {shorten(cut[0], 60)!r}.",
                DataWarning,
                stacklevel=3,
            )

    @abstractmethod
    def token_count(self, text: str) -> int:
        """Tokens of a text alone.

        That is the index of its last token in an encoded prompt that begins with it.
        """

    @abstractmethod
    def open_slots(self, parts: Sequence[tuple[str, str]], count: int) -> Slotted:
        """Prompts given as (text before, text after) with `count` free slots between.

        SettingError if one does not fit into the text window with them.
        """

    @abstractmethod
    def encode_slots(self, slotted: Slotted, vectors: Float[Tensor, "b k w"]) -> Condition:
        """As `encode`, with these token embeddings in the slots; they may ask for gradients."""

    @property
    @abstractmethod
    def token_table(self) -> Float[Tensor, "v w"]:
        """The edited text encoder's token embeddings, one row per entry of the vocabulary."""

    @property
    @abstractmethod
    def special_tokens(self) -> list[int]:
        """Entries of the vocabulary that are no text: start, end, padding."""

    @property
    @abstractmethod
    def word_tokens(self) -> Int[Tensor, " v"]:
        """Entries of the vocabulary that text can hold: written down and read, they are the same.

        Parts of words and of characters are not among them, since in a text they join others.
        """

    @abstractmethod
    def decode(self, tokens: Int[Tensor, " k"]) -> str:
        """The text of these tokens."""

    @abstractmethod
    def levels(self, t: Times) -> tuple[Level, Level]:
        """(signal, spread) at t, to multiply latents and noise with."""

    @abstractmethod
    def target(
        self, z0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Times
    ) -> Float[Tensor, "b c h w"]:
        """What `predict` is compared with in training, at z_t = add_noise(z0, noise, t)."""

    @abstractmethod
    def predict(
        self, z_t: Float[Tensor, "b c h w"], t: Times, condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        """The model's estimate of `target` from z_t."""

    @abstractmethod
    def denoised(
        self, z_t: Float[Tensor, "b c h w"], prediction: Float[Tensor, "b c h w"], t: Times
    ) -> Float[Tensor, "b c h w"]:
        """The z0 that a prediction at z_t means; z0 itself, if it is `target`."""

    @abstractmethod
    def random_times(self, count: int, generator: torch.Generator) -> Times:
        """Training times as the family draws them, on the CPU."""

    @abstractmethod
    def descent(self, steps: int) -> tuple[Real[Tensor, " s"], Float[Tensor, "2 s"]]:
        """Descending times of `steps` sampling steps, and (signal, spread) where each arrives."""

    @abstractmethod
    def to_latents(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        """Scaled latents of images in [0, 255]."""

    @abstractmethod
    def to_images(self, latents: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b 3 h w"]:
        """Images in [0, 255], on the CPU, of scaled latents."""

    @abstractmethod
    def sample_path(
        self, condition: Condition, *, steps: int, guidance: float, noise: Float[Tensor, "b c h w"]
    ) -> SampledPath:
        """Guided sampling without fresh noise over `steps` descending times, from this noise."""

    @abstractmethod
    def generate(
        self,
        prompts: Sequence[str] | Condition,
        *,
        steps: int,
        guidance: float,
        generators: Sequence[torch.Generator],
    ) -> UInt8[Tensor, "b 3 h w"]:
        """Images in [0, 255] by the model's own scheduler, of prompts or of encoded ones.

        Each image's noise is from its own CPU generator.
        """

    @abstractmethod
    def use_scheduler(self, name: str) -> None:
        """Sample with the diffusers scheduler of this class name."""

    @abstractmethod
    def use_resolution(self, pixels: int) -> None:
        """Draw squares of this side from now on; SettingError if the model cannot."""

    @abstractmethod
    def gradient_checkpointing(self, on: bool) -> AbstractContextManager[None]:
        """Within it, networks keep few activations for backward passes, if `on`."""

    @abstractmethod
    def memorised(
        self, prompts: Sequence[str], *, encoders_rest: bool = True
    ) -> AbstractContextManager[None]:
        """Within it, `encode` answers these prompts from memory; idle parts leave the device.

        Where text weights are remembered, that is so for the untouched model alone. The autoencoder
        is idle, and text encoders if they are not edited, unless `encoders_rest` is false.
        """

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) at the model's own resolution."""

    @property
    @abstractmethod
    def resolution(self) -> int:
        """Pixels along an image's side, for square images at the model's own size."""

    @property
    def images_at_once(self) -> int:
        """How many images to draw or encode together: 16 at 512 pixels, fewer of larger ones."""
        _, height, width = self.latent_shape
        return max(1, min(16, 16 * 64 * 64 // (height * width)))

    def add_noise(
        self, z0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Times
    ) -> Float[Tensor, "b c h w"]:
        """signal * z0 + spread * noise, by the `levels` at t."""
        signal, spread = self.levels(t)
        return signal * z0 + spread * noise

    def predict_guided(
        self, z_t: Float[Tensor, "b c h w"], t: Times, condition: Condition, empty: Condition,
        guidance: float,
    ) -> Float[Tensor, "b c h w"]:  # fmt: skip
        """The prediction that a drawing's step goes by; guidance 1 is `predict`."""
        return guided(self, z_t, t, condition, empty, guidance)

    def continue_path(
        self, z: Float[Tensor, "b c h w"], condition: Condition, *, steps: int, first: int = 0,
        until: int | None = None, guidance: float, eta: float = 0.0, churn: float = 1.0,
        known: Known | None = None, nudge: Nudge | None = None, generator: torch.Generator,
    ) -> Float[Tensor, "b c h w"]:  # fmt: skip
        """Finished latents, from those that stand before step `first` of `steps`; gradients pass.

        With `until`, those that stand before that step.

        z <- signal z0 + sqrt|spread^2 - sigma^2| noise + churn sigma n: guided DDIM (Song et al.
        2021, https://arxiv.org/abs/2010.02502, eq. 12), with z0 and noise as predicted and fresh n.
        `eta` is sigma's share of what it is in the reversed diffusion; above 1 the root stays
        defined. `known` latents are noised, with one noise, and put in place before every step.
        `nudge(z_t, t, z0)` gives the z0 to go on with: z0 + spread^2 / signal * the gradient of
        log p(y | z_t) is a classifier's guidance. DivergedError if the end is not finite, as where
        noise is predicted and step 0 has no signal.
        """
        if not 0 <= first < steps:
            raise SettingError(f"first must be from 0 to {steps - 1}, the last step; got {first}.")
        last = steps if until is None else until
        if not first <= last <= steps:
            raise SettingError(f"until must be from first, {first}, to {steps}; got {last}.")
        times, arrivals = self.descent(steps)
        empty = self.encode([""]).expand_as(condition) if guidance != 1 else condition
        fixed = _normal(z, generator) if known else z
        for number in range(first, last):
            t = times[number].expand(len(z))
            signal, spread = self.levels(t)
            if known:
                z = torch.where(known.is_kept, self.add_noise(known.z0, fixed, t), z)
            z0 = self.denoised(z, self.predict_guided(z, t, condition, empty, guidance), t)
            if nudge:
                z0 = nudge(z, t, z0)
            noise = (z - signal * z0) / spread
            signal_after, after = arrivals[:, number]
            passed = spread**2 - (signal / signal_after * after) ** 2
            sigma = eta * after / spread * passed.clamp(min=0).sqrt()
            z = signal_after * z0 + (after**2 - sigma**2).abs().sqrt() * noise
            if eta:
                z = z + churn * sigma * _normal(z, generator)
        if not bool(z.isfinite().all()):
            raise DivergedError(f"the path of {self.name} from step {first} is not finite.")
        return z if known is None or last < steps else torch.where(known.is_kept, known.z0, z)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def guided(
    model: DiffusionModel, z_t: Float[Tensor, "b c h w"], t: Times,
    condition: Condition, empty: Condition, guidance: float,
) -> Float[Tensor, "b c h w"]:  # fmt: skip
    """With p for predict: p(empty) + guidance (p(condition) - p(empty)), in one call.

    Guidance 1 skips the empty prompt.
    """
    if guidance == 1:
        return model.predict(z_t, t, condition)
    twice = model.predict(torch.cat([z_t, z_t]), torch.cat([t, t]), torch.cat([condition, empty]))
    some, none = twice.chunk(2)
    return none + guidance * (some - none)
