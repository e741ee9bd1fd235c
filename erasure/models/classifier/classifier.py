"""Vision transformers that classify: timm's, transformers' and torchvision's, in one shape."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.func import functional_call

from erasure.errors import ModelError, SettingError
from erasure.models.classifier.labels import Labels
from erasure.models.classifier.transform import Transform
from erasure.models.editable import Editable

Library = Literal["timm", "transformers", "torchvision"]
FEED_FORWARD = re.compile(
    r"(?:^|\.)(?:blocks|layers?)\.(?:encoder_layer_)?(\d+)"
    r"\.(?:mlp\.(?:fc1|fc2|0|3)|intermediate\.dense|output\.dense)$"
)
ATTENTION = re.compile(
    r"(?:^|\.)(?:blocks|layers?)\.(?:encoder_layer_)?(\d+)\."
    r"(?:attn\.(?:qkv|proj)|attention\.(?:attention\.)?(?:[qkvo]_proj|query|key|value|output\.dense))$"
)
SELECTIONS = {
    "all": "",
    "mlp": r"\b(?:mlp|intermediate|output)\.(?!.*\battention\b)",
    "attention": r"\b(?:attn|attention|self_attention)\.",
    "head": r"^(?:head|heads|classifier)\.",
}


class ViTModel(Editable):
    """A classifier of `labels`, with its features (what its head reads) and its blocks' linears."""

    selections = SELECTIONS

    def __init__(
        self, network: nn.Module, *, name: str, labels: Sequence[str], transform: Transform,
        library: Library, folder: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network, self.name, self.folder = network.requires_grad_(False).eval(), name, folder
        self.labels, self.transform, self.library = tuple(labels), transform, library
        self._named = Labels(self.labels, name)
        linears = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear)}
        heads = [n for n, m in linears.items() if m.out_features == len(self.labels)]
        if not heads:
            raise ModelError(f"{name} has no linear head of {len(self.labels)} classes.")
        self._head = heads[-1]
        try:
            self.groups()
        except SettingError as error:
            raise ModelError(f"{name} is no vision transformer: no feed-forward block.") from error

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.network.named_parameters())

    def constants(self) -> dict[str, Tensor | str]:
        buffers = dict(self.network.named_buffers())
        return {**buffers, "labels": repr(self.labels)}

    def module(self, name: str) -> nn.Module:
        return self.network.get_submodule(name)

    def groups(self, place: Literal["ffn", "attention", "both"] = "ffn") -> list[list[str]]:
        """Names of the linear modules in each transformer block, in the blocks' order.

        torchvision's attention has none that can be adapted. SettingError if nothing is found.
        """
        found: dict[int, list[str]] = {}
        for name, module in self.network.named_modules():
            if isinstance(module, nn.Linear):
                for kind, rule in (("ffn", FEED_FORWARD), ("attention", ATTENTION)):
                    block = rule.search(name)
                    if block and place in (kind, "both"):
                        found.setdefault(int(block[1]), []).append(name)
        if not found:
            raise SettingError(f"place must be ffn for {self.name}: its {place} has no linears.")
        return [found[number] for number in sorted(found)]

    def forward(self, x: Float[Tensor, "b 3 s s"]) -> tuple[Tensor, Tensor]:
        """(features (b, d), logits (b, classes)) of prepared images; the untouched model's within
        `original()`.
        """
        seen: list[Tensor] = []
        head = self.network.get_submodule(self._head)
        hook = head.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
        try:
            if self._asks_original:
                out: Any = functional_call(self.network, self.kept("", self.network), (x,))
            else:
                out = self.network(x)
        finally:
            hook.remove()
        return seen[0], getattr(out, "logits", out)

    @torch.no_grad()
    def predict(
        self, images: UInt8[Tensor, "n 3 h w"], batch_size: int = 128
    ) -> Float[Tensor, "n classes"]:
        """Probabilities of images in [0, 255], on the CPU."""
        parts = [self.forward(self.prepare(part))[1] for part in images.split(batch_size)]
        return torch.cat([part.float().softmax(1).cpu() for part in parts])

    def prepare(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s s"]:
        """Images as `load_parts` gives them; those of the network's own side count as cut."""
        return self.transform.of_cut(images.to(self.device))

    def indices(self, names: Sequence[str]) -> list[int]:
        """The class of each name, which is a label, its part before a comma, or its number.

        SettingError for one that the head does not have, and for one that two classes share.
        """
        return [self._named.find(name) for name in names]

    def asked(self, texts: Sequence[str]) -> list[int]:
        """As `indices`, of texts that may name several classes each, with commas."""
        return [number for text in texts for number in self._named.split(text)]

    def title(self, number: int) -> str:
        """The class's label, with its number where another class has the same label."""
        return self._named.title(number)


def reinitialise(network: nn.Module, generator: torch.Generator) -> None:
    """Random weights in place: matrices and embeddings normal (0.02), gains 1, biases 0."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                value = torch.randn(parameter.shape, generator=generator).clamp(-2, 2) * 0.02
                parameter.copy_(value)
            else:
                parameter.fill_(1.0 if name.endswith(("weight", "gamma")) else 0.0)
