"""What every text-to-image diffusion model offers to methods, attacks and evaluation."""

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from textwrap import shorten

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from erasure.models.diffusion.slots import Slotted
from erasure.models.editable import Editable
from erasure.models.select import SELECTIONS
from erasure_datasets.concept import Catalogue
from erasure_datasets.errors import DataWarning

Condition = Float[Tensor, "b n d"]  # a row per token; what else a family needs, in rows after them


@dataclass(frozen=True)
class Sampling:
    """How a model must be sampled, where it or its edit demands it (a one-step generator)."""

    steps: int
    guidance: float
    scheduler: str


@dataclass(frozen=True)
class SampledPath:
    """Latents before each timestep and the finished ones, and the noise predicted at each.

    `asked` is predicted under the condition, `none` under the empty prompt.
    """

    latents: Float[Tensor, "s b c h w"]
    finished: Float[Tensor, "b c h w"]
    timesteps: Int[Tensor, " s"]
    asked: Float[Tensor, "s b c h w"]
    none: Float[Tensor, "s b c h w"]

    def cpu(self) -> "SampledPath":
        return SampledPath(*(getattr(self, item.name).cpu() for item in fields(self)))


class DiffusionModel(Editable):
    """An editable text-to-image model; see `Editable` for how it is edited."""

    selections = SELECTIONS
    catalogue: Catalogue | None
    alphas_cumprod: Float[Tensor, " timesteps"]
    sampling: Sampling | None = None

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Condition:
        """What the UNet is told of each prompt; "" is the unconditional one."""

    @abstractmethod
    def states(self, condition: Condition) -> Float[Tensor, "b n d"]:
        """The rows that belong to tokens, which cross-attention reads."""

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
    def predict(
        self, z_t: Float[Tensor, "b c h w"], t: Int[Tensor, " b"], condition: Condition
    ) -> Float[Tensor, "b c h w"]:
        """The noise in z_t; a v-prediction is converted."""

    @abstractmethod
    def to_latents(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h w"]:
        """Scaled latents of images in [0, 255]."""

    @abstractmethod
    def sample_path(
        self, condition: Condition, *, steps: int, guidance: float, noise: Float[Tensor, "b c h w"]
    ) -> SampledPath:
        """Guided DDIM over `steps` descending timesteps, from this noise."""

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
        """Within it, UNet and text encoders keep few activations for backward passes, if `on`."""

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
        self, z0: Float[Tensor, "b c h w"], noise: Float[Tensor, "b c h w"], t: Int[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """sqrt(alpha_bar) z0 + sqrt(1 - alpha_bar) noise."""
        signal, spread = self.levels(t)
        return signal * z0 + spread * noise

    def levels(
        self, t: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b 1 1 1"], Float[Tensor, "b 1 1 1"]]:
        """(sqrt(alpha_bar), sqrt(1 - alpha_bar)) at t, shaped to multiply latents."""
        alpha_bar = self.alphas_cumprod.to(t.device)[t].view(-1, 1, 1, 1)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def guided(
    model: DiffusionModel, z_t: Float[Tensor, "b c h w"], t: Int[Tensor, " b"],
    condition: Condition, empty: Condition, guidance: float,
) -> Float[Tensor, "b c h w"]:  # fmt: skip
    """eps(empty) + guidance (eps(condition) - eps(empty)), in one call; guidance 1 skips empty."""
    if guidance == 1:
        return model.predict(z_t, t, condition)
    twice = model.predict(torch.cat([z_t, z_t]), torch.cat([t, t]), torch.cat([condition, empty]))
    some, none = twice.chunk(2)
    return none + guidance * (some - none)
