"""SalUn for classifiers: random labels, trained into the weights that matter to the forgotten.

Changes: the most salient half of all weights; another share with --keep-fraction.

Fan, Liu, Zhang, Wong, Wei, Liu, "SalUn: Empowering Machine Unlearning via Gradient-based Weight
Saliency in Both Image Classification and Generation" (ICLR 2024), https://arxiv.org/abs/2310.12508.

    mask    1 on the share `keep_fraction` of all weights with the largest |sum grad CE(forget)|
    loss    CE(forget, random label) + CE(retain, right label), on the masked weights alone

Choices
- Signed gradients add up over all forget images before their size is taken, and one ranking runs
  over all selected weights, as published. Every image weighs alike; the authors' code adds each
  batch's mean, so that an image of a short last batch weighs more.
- `score=wagle` and `random` rank otherwise, for comparison: see shared/saliency.py. WAGLE's g_r is
  that of the retain term, in shuffled batches of 64: a batch of one class has another mean.
- Of weights that tie, the first are taken, so that exactly floor(keep_fraction n) may move.
- Weights outside the mask are put back after every step, since momentum and weight decay move
  them too (the authors fixed this in 2026; their published figures come from before).
- Labels as in random_label.py; the published classification setting is 10 epochs at 0.013.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.errors import SettingError
from erasure.forgetting import Request
from erasure.methods.classifier.random_label import relabel
from erasure.methods.classifier.ssd import shuffled
from erasure.methods.shared.forget_and_keep import ForgetAndKeep
from erasure.methods.shared.saliency import MaskScore, attributions, largest, random_scores
from erasure.models.classifier.classifier import Classifier
from erasure.registry import METHODS
from erasure.training.learner import trainable
from erasure.training.progress import shown
from erasure.training.run import Run
from erasure_datasets.labelled import Labelled


@METHODS.register
@dataclass(frozen=True)
class SalUn(ForgetAndKeep):
    """Saliency unlearning."""

    learning_rate: float = setting(0.013, help="SGD's", above=0)
    keep_fraction: float = setting(0.5, help="share of the weights that may move", above=0,
                                   at_most=1)  # fmt: skip
    score: MaskScore = setting(
        "magnitude", help="what the mask ranks: the gradient, WAGLE's attribution, or chance"
    )

    def __post_init__(self) -> None:
        check(self)

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        weights = model.weights(self.select)
        generator = run.generator_for(f"{request.stage} mask")
        masks = saliency(
            model, request, weights, self.keep_fraction, score=self.score, generator=generator
        )
        relabel(self, model, request, masks, run)


def saliency(
    model: Classifier, request: Request, weights: dict[str, nn.Parameter], keep: float,
    *, score: MaskScore, generator: torch.Generator, batch_size: int = 64,
) -> dict[str, Tensor]:  # fmt: skip
    """Bool masks of the `keep` share of weights that score highest, by name.

    The generator gives random scores, and the order in which WAGLE's sees what is kept.
    SettingError for a share of less than one weight, and for WAGLE's without images to keep.
    """
    if int(keep * sum(weight.numel() for weight in weights.values())) == 0:
        raise SettingError(f"SalUn.keep_fraction must leave a weight to move; got {keep}.")
    if score == "wagle" and not len(request.retain):
        raise SettingError(
            "SalUn.score wagle weighs the images to keep, and there are none; take magnitude."
        )
    if score == "random":
        return largest(random_scores(weights, generator), keep)
    scores = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for gradients, _ in _gradients(model, request.forget, weights, batch_size):
        for name, gradient in gradients.items():
            scores[name] += gradient
    if score == "wagle":
        kept = shuffled(request.retain, generator)
        scores = attributions(weights, scores, *_moments(model, kept, weights, batch_size))
    return largest(scores, keep)


def _moments(
    model: Classifier, part: Labelled, weights: dict[str, nn.Parameter], batch_size: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Means over batches of the mean gradient and of its square, by weight."""
    means, squares = ({name: torch.zeros_like(w) for name, w in weights.items()} for _ in range(2))
    batches = -(-len(part) // batch_size)
    for gradients, count in _gradients(model, part, weights, batch_size):
        for name, gradient in gradients.items():
            means[name] += gradient / (count * batches)
            squares[name] += (gradient / count).square() / batches
    return means, squares


def _gradients(
    model: Classifier, part: Labelled, weights: dict[str, nn.Parameter], batch_size: int
) -> Iterator[tuple[dict[str, Tensor], int]]:
    """Each batch's cross-entropy, summed over its images: the gradients by weight; its length."""
    with trainable(weights):
        batches = [*zip(part.images.split(batch_size), part.labels.split(batch_size), strict=True)]
        for images, labels in shown(batches, "mask"):
            logits = model.forward(model.prepare(images))[1]
            total = F.cross_entropy(logits, labels.to(model.device), reduction="sum")
            gradients = torch.autograd.grad(total, list(weights.values()))
            yield dict(zip(weights, gradients, strict=True)), len(labels)
