"""Image classifiers of timm, transformers and torchvision, in one shape."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.func import functional_call

from erasure.errors import DivergedError, ModelError
from erasure.models.classifier.labels import Labels
from erasure.models.classifier.transform import Transform
from erasure.models.editable import Editable
from erasure.training.progress import shown
from erasure_datasets.labelled import Images

Library = Literal["timm", "transformers", "torchvision"]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
SELECTIONS = {
    "all": "",
    "mlp": r"\b(?:mlp|intermediate|output)\.(?!.*\battention\b)",
    "attention": r"\b(?:attn|attention|self_attention)\.",
}


class Classifier(Editable):
    """A classifier of `labels`, with its features: what its linear head reads.

    The network is in eval mode, also while a method fits it: BatchNorm's running statistics stay as
    they are but within `learning_statistics`.
    """

    def __init__(
        self, network: nn.Module, *, name: str, labels: Sequence[str], transform: Transform,
        library: Library, folder: Path | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network, self.name, self.folder = network.requires_grad_(False).eval(), name, folder
        self.labels, self.transform = tuple(labels), transform
        self.library: Library = library
        self._named = Labels(self.labels, name)
        linears = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear)}
        heads = [n for n, m in linears.items() if m.out_features == len(self.labels)]
        if not heads:
            raise ModelError(f"{name} has no linear head of {len(self.labels)} classes.")
        self.head_name = heads[-1]
        self.selections = {**SELECTIONS, "head": rf"^{re.escape(self.head_name)}\."}

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.network.named_parameters())

    def buffers(self) -> dict[str, Tensor]:
        return {
            f"{name}.{own}": tensor
            for name, module in self.network.named_modules()
            if isinstance(module, NORMS)
            for own, tensor in module.named_buffers()
        }

    def constants(self) -> dict[str, Tensor | str]:
        moving = self.buffers()
        fixed = {n: b for n, b in self.network.named_buffers() if n not in moving}
        return {**fixed, "labels": repr(self.labels), "transform": self.transform.told()}

    def module(self, name: str) -> nn.Module:
        return self.network.get_submodule(name)

    @contextmanager
    def learning_statistics(self) -> Iterator[None]:
        """Within it BatchNorm goes by each batch, and its running statistics follow.

        Dropout stays off: its dice are not the run's.
        """
        norms = [module for module in self.network.modules() if isinstance(module, NORMS)]
        for norm in norms:
            norm.train()
        try:
            yield
        finally:
            for norm in norms:
                norm.eval()

    def forward(self, x: Float[Tensor, "b 3 s s"]) -> tuple[Tensor, Tensor]:
        """(features (b, d), logits (b, classes)) of prepared images; the original model's within
        `original()`.
        """
        seen: list[Tensor] = []
        head = self.network.get_submodule(self.head_name)
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
    def predict(self, images: Images, batch_size: int = 128) -> Float[Tensor, "n classes"]:
        """Probabilities of images in [0, 255], prepared by `prepare`, on the CPU.

        DivergedError for answers that are not finite, of which the first class would be the top.
        """
        batches = shown(images.split(batch_size), "looking at images")
        parts = [self.forward(self.prepare(part))[1] for part in batches]
        return self._finite(torch.cat([part.float().softmax(1).cpu() for part in parts]))

    @torch.no_grad()
    def features(self, images: Images, batch_size: int = 128) -> Float[Tensor, "n d"]:
        """What the head reads of images in [0, 255], prepared by `prepare`, on the CPU.

        DivergedError for features that are not finite.
        """
        batches = shown(images.split(batch_size), "looking at images")
        parts = [self.forward(self.prepare(part))[0] for part in batches]
        return self._finite(torch.cat([part.float().cpu() for part in parts]))

    def _finite(self, answers: Tensor) -> Tensor:
        if not bool(answers.isfinite().all()):
            raise DivergedError(
                f"{self.name} gives answers that are not finite, which say nothing; forgetting by "
                "smaller or fewer steps, in another --out, may keep them so."
            )
        return answers

    def prepare(self, images: Images) -> Float[Tensor, "b 3 s s"]:
        """Images as the network takes them; those of its own side count as `cut` already."""
        held = images if isinstance(images, Tensor) else images.held()
        return self.transform.of_cut(held.to(self.device))

    def cut(self, images: UInt8[Tensor, "n 3 h w"]) -> UInt8[Tensor, "n 3 s s"]:
        """Whole pictures, scaled and cut as the classifier's own library does it, on the CPU."""
        whole = shown([*images], "cutting images")
        return torch.stack([self.transform.cut(image) for image in whole])

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
    """Random weights in place: matrices and embeddings normal (0.02), gains 1, biases 0.

    BatchNorm's statistics begin anew.
    """
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                value = torch.randn(parameter.shape, generator=generator).clamp(-2, 2) * 0.02
                parameter.copy_(value)
            else:
                parameter.fill_(1.0 if name.endswith(("weight", "gamma")) else 0.0)
    for module in network.modules():
        if isinstance(module, NORMS):
            module.reset_running_stats()
