"""What holds the rest of a classifier that forgets, where there are no images of the rest.

    weights     sum (theta - theta_0)^2 over the weights that learn
    features    |(I - P)(e - e_0)|^2 / |e_0|^2 on the images to forget
    relations   KL(softmax_j <w_c, e_0(x_j)> / tau || softmax_j <w_c, e(x_j)> / tau)

theta_0 are the weights before the request; e are an image's features, e_0 those before the run; P
projects on the head's rows of the forgotten classes; j runs over a step's images, and c, for a
mean, over the kept classes that have no images.

Weights and features: Smith, Tian, Halbe, Hsu, Kira, "A Closer Look at Rehearsal-Free Continual
Learning" (2023), https://arxiv.org/abs/2203.17269. Relations: Asadi, Davari, Mudur, Aljundi,
Belilovsky, "Prototype-Sample Relation Distillation" (ICML 2023), https://arxiv.org/abs/2303.14771.

Choices
- Smith et al. train attention's weights and pull these alone: `--select attention`.
- They distil features of a new task's images. Here the images are those to forget, so that the part
  of their features along the forgotten classes' rows is free. The head stays as it is then: its
  other rows could turn away with no feature moved.
- A prototype is a class's row in the head; <w_c, e> is its logit without the bias, which a softmax
  over images does not see. Of several processes or parts of a batch, each has its own softmax.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from erasure.models.classifier.classifier import Classifier


@dataclass(frozen=True)
class Answers:
    """A step's prepared images and what the model says of them; the first are those to forget.

    `kept` are the right labels of the others, of which there may be none.
    """

    model: Classifier
    x: Float[Tensor, "b 3 s s"]
    features: Float[Tensor, "b d"]
    logits: Float[Tensor, "b classes"]
    forgotten: Int[Tensor, " f"]
    kept: Int[Tensor, " r"]

    @property
    def to_forget(self) -> Float[Tensor, "f classes"]:
        """Logits of the images to forget."""
        return self.logits[: len(self.forgotten)]

    def original(self, count: int | None = None) -> tuple[Tensor, Tensor]:
        """(features, logits) of the original model, of the first `count` images or of all."""
        with self.model.original():
            return self.model.forward(self.x[:count])


Term = Callable[[Answers], Tensor]  # a scalar


def weights_stay(weights: Mapping[str, Tensor]) -> Term:
    """The squared distance of the weights from where they are now."""
    start = {name: weight.detach().clone() for name, weight in weights.items()}

    def term(_said: Answers) -> Tensor:
        gone = [(weight - start[name]).square().sum() for name, weight in weights.items()]
        return torch.stack(gone).sum()

    return term


def features_stay(model: Classifier, classes: Sequence[int]) -> Term:
    """How far features go from the original's, but along the head's rows of these classes."""
    rows = next(w for w in model.weights("head").values() if w.ndim == 2)[list(classes)]
    directions = torch.linalg.qr(rows.detach().float().T).Q  # (d, classes)

    def term(said: Answers) -> Tensor:
        before = said.original()[0].float()
        gone = said.features.float() - before
        gone = gone - gone @ directions @ directions.T
        return (gone.square().sum(1) / before.square().sum(1)).mean()

    return term


def relations_stay(classes: Sequence[int], temperature: float) -> Term:
    """How far the images' order by each class's logit goes from the original's."""

    def term(said: Answers) -> Tensor:
        was, now = (
            (logits[:, list(classes)].float() / temperature).log_softmax(0)  # over the images
            for logits in (said.original()[1], said.logits)
        )
        return F.kl_div(now, was, log_target=True, reduction="sum") / len(classes)

    return term
