"""What every text-to-image diffusion model offers to methods, attacks and evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from erasure.models.select import select_names
from erasure.models.slots import Slotted
from erasure_datasets.concept import Catalogue

Condition = Float[Tensor, "b n d"]


@dataclass(frozen=True)
class Sampling:
    """How a model must be sampled, where it or its edit demands it (a one-step generator)."""

    steps: int
    guidance: float
    scheduler: str


class DiffusionModel(ABC):
    """A frozen model with a way to ask what it would have said before it was edited.

    `originals` holds copies of remembered tensors; only those can differ from the untouched model.
    """

    name: str
    folder: Path | None
    catalogue: Catalogue | None
    alphas_cumprod: Float[Tensor, " timesteps"]
    sampling: Sampling | None = None

    def __init__(self) -> None:
        self.originals: dict[str, Tensor] = {}
        self._asks_original = False

    @abstractmethod
    def parameters(self) -> dict[str, nn.Parameter]:
        """Every weight that an edit may change, by full name."""

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Condition:
        """The text encoder's hidden states, one row per prompt."""

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
        self, condition: Condition, *, steps: int, guidance: float, generator: torch.Generator
    ) -> tuple[Float[Tensor, "s1 b c h w"], Int[Tensor, " s"]]:
        """Guided DDIM over `steps` descending timesteps: (latents, timesteps).

        The latents are those before each timestep and, last, the finished ones.
        """

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
    def gradient_checkpointing(self, on: bool) -> AbstractContextManager[None]:
        """Within it, the UNet keeps few activations for the backward pass, if `on`."""

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) at the model's own resolution."""

    @property
    @abstractmethod
    def resolution(self) -> int:
        """Pixels along an image's side, for square images at the model's own size."""

    def weights(self, select: str) -> dict[str, nn.Parameter]:
        """The parameters a selection names (see models/select.py); never empty, or SettingError."""
        parameters = self.parameters()
        return {name: parameters[name] for name in select_names(select, list(parameters))}

    def remember(self, names: Sequence[str]) -> None:
        """Keep copies of the named tensors as they are now, unless they are kept already."""
        parameters = self.parameters()
        for name in names:
            if name not in self.originals:
                self.originals[name] = parameters[name].detach().clone()

    @contextmanager
    def original(self) -> Iterator[None]:
        """Within it, `encode` and `predict` answer as the untouched model, without gradients."""
        before, self._asks_original = self._asks_original, True
        try:
            with torch.no_grad():
                yield
        finally:
            self._asks_original = before

    @contextmanager
    def without_edit(self) -> Iterator[None]:
        """Within it the model itself is the untouched one, `generate` included."""
        current = self.parameters()
        edited = {name: current[name].detach().clone() for name in self.originals}
        try:
            with torch.no_grad():
                for name, tensor in self.originals.items():
                    current[name].copy_(tensor)
            yield
        finally:
            with torch.no_grad():
                for name, tensor in edited.items():
                    current[name].copy_(tensor)

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
