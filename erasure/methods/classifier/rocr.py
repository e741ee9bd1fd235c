"""ROCR: redirect a class to another one by a closed-form edit of one feed-forward matrix.

Changes: the second feed-forward matrix of the last transformer block.

The edit of Meng, Bau, Andonian, Belinkov, "Locating and Editing Factual Associations in GPT" (ROME,
NeurIPS 2022), https://arxiv.org/abs/2202.05262, turned to forgetting by redirection:

    W <- W + (V - W K)(K^T C^-1 K)^-1 K^T C^-1,   V = W (K + push (T - K))

Each column of K is the mean input of W, its key, over a forgotten class's images, that of T over
the images of the kept class which is said instead, and C the mean of h h^T over the inputs h of
what is kept, plus lambda I. Of all matrices that send K to V, this one changes least what W says of
what is kept. Nothing is trained.

Choices
- With one class it is ROME's formula; the classes of a request are edited together, exactly.
- A class goes to the kept one that the model finds likeliest for its images.
- `push` 1 sends a key all the way to the other's value. The block adds to what those before it have
  said already, so that a larger one is of use.
- Every token weighs as much as the answer depends on it, since a head may read one token alone.
  lambda is a share of C's mean diagonal.
- ROME searches its values and makes its keys from random beginnings of a text; here they are means.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from erasure.config import check, setting
from erasure.forgetting import Request
from erasure.models.classifier.blocks import groups
from erasure.models.classifier.classifier import Classifier
from erasure.registry import METHODS
from erasure.training.progress import Bar
from erasure.training.run import Run
from erasure_datasets.labelled import Images, Labelled


@METHODS.register
@dataclass(frozen=True)
class ROCR:
    """A closed-form redirection of classes."""

    without_effect: ClassVar = ("mixed_precision",)
    of_classes_alone: ClassVar = True

    push: float = setting(1.0, help="how far a class goes towards the other's value", above=0)
    ridge: float = setting(1e-3, help="lambda, as a share of C's mean diagonal", above=0)
    batch_size: int = setting(128, help="images looked at at once", at_least=1)

    def __post_init__(self) -> None:
        check(self)

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        layer = groups(model)[-1][-1]
        model.remember([f"{layer}.weight"])
        others = instead(model, request)
        parts = request.forget, request.retain
        shares = token_shares(model, layer, request.forget.images, self.batch_size)
        total = sum(len(part.images.split(self.batch_size)) for part in parts)
        with run.progress("keys", total) as bar:
            (keys, _), (known, second) = (
                self._inputs(model, layer, shares, part, bar) for part in parts
            )
        own = torch.stack([keys[number] for number in others], 1)  # (in, classes)
        theirs = torch.stack([known[other] for other in others.values()], 1)
        weight = model.parameters()[f"{layer}.weight"]
        before = weight.detach().double()
        values = before @ (own + self.push * (theirs - own))
        ridge = self.ridge * second.diagonal().mean() * torch.eye(len(second)).to(second)
        with torch.no_grad():
            weight.add_(redirection(before, own, values, second + ridge).to(weight))

    @torch.no_grad()
    def _inputs(
        self, model: Classifier, layer: str, shares: Float[Tensor, " t"], part: Labelled, bar: Bar
    ) -> tuple[dict[int, Float[Tensor, " i"]], Float[Tensor, "i i"]]:
        """(the mean input of each class, the mean of h h^T) over a part, in float64."""
        seen, counts = dict[int, Tensor](), dict[int, int]()
        second = torch.zeros((), dtype=torch.float64, device=model.device)
        batches = zip(
            part.images.split(self.batch_size), part.labels.split(self.batch_size), strict=True
        )
        for images, labels in batches:
            inputs = layer_inputs(model, layer, images).double()  # (b, t, i)
            second = second + torch.einsum("bti,t,btj->ij", inputs, shares, inputs)
            pooled = torch.einsum("bti,t->bi", inputs, shares)
            for number in set(labels.tolist()):
                own = pooled[(labels == number).to(pooled.device)]
                seen[number] = seen.get(number, 0) + own.sum(0)
                counts[number] = counts.get(number, 0) + len(own)
            bar.advance()
        return {c: total / counts[c] for c, total in seen.items()}, second / len(part)


def instead(model: Classifier, request: Request) -> dict[int, int]:
    """For each class to forget, the likeliest one, for its images, of those with images to keep."""
    kept = sorted(set(request.retain.labels.tolist()))
    said = model.predict(request.forget.images)[:, kept]
    return {
        number: kept[int(said[request.forget.labels == number].mean(0).argmax())]
        for number in sorted(set(request.forget.labels.tolist()))
    }


def layer_inputs(model: Classifier, layer: str, images: Images) -> Float[Tensor, "b t i"]:
    """What a linear is given for images, by token."""
    found: list[Tensor] = []
    with model.module(layer).register_forward_hook(
        lambda _layer, given, _said: found.append(given[0].detach())
    ):
        model.forward(model.prepare(images))
    return found[0].flatten(1, -2)


def token_shares(
    model: Classifier, layer: str, images: Images, batch_size: int
) -> Float[Tensor, " t"]:
    """How much the answers for images depend on what a linear says at each token; 1 in all.

    It is of all images, whatever the size of the batches in which they are looked at.
    """
    found: list[Tensor] = []

    def follow(_layer: nn.Module, _given: tuple[Tensor], said: Tensor) -> Tensor:
        found[:] = [said.detach().requires_grad_()]
        return found[0]

    sizes = torch.zeros((), dtype=torch.float64, device=model.device)
    with model.module(layer).register_forward_hook(follow), torch.enable_grad():
        for batch in images.split(batch_size):
            logits = model.forward(model.prepare(batch))[1]
            (gradient,) = torch.autograd.grad(logits.amax(1).sum(), found)
            sizes = sizes + gradient.flatten(1, -2).double().norm(dim=2).sum(0)
    return sizes / sizes.sum()


def redirection(
    weight: Float[Tensor, "o i"], keys: Float[Tensor, "i m"], values: Float[Tensor, "o m"],
    second: Float[Tensor, "i i"],
) -> Float[Tensor, "o i"]:  # fmt: skip
    """The least D, by tr(D C D^T), with (W + D) K = V."""
    dual = torch.linalg.solve(second, keys)  # C^-1 K
    return (values - weight @ keys) @ torch.linalg.solve(keys.T @ dual, dual.T)
