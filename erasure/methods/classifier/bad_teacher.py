"""Bad teacher: learn what to forget from a model that knows nothing, the rest from the original.

Changes: all weights; some with --select.

Chundawat, Tarun, Mandal, Kankanhalli, "Can Bad Teaching Induce Forgetting? Unlearning in Deep
Networks Using an Incompetent Teacher" (AAAI 2023), https://arxiv.org/abs/2205.08096:

    loss    KL(bad || student) on forget, KL(good || student) on retain, in mixed batches

The bad teacher is the same network with random weights, the good one the model as it is before the
request.

Choices
- Temperature 1, one pass, and a share of 0.3 of what is kept, as published.
- The divergence is a mean over images; the authors' code divides by the number of classes as well,
  which makes its learning rate another.
- Teachers answer once, before the training: neither changes, and images are not varied.
- The good teacher is the model before the request, not before the run: it no longer knows what
  earlier requests took.
"""

from copy import deepcopy
from dataclasses import dataclass
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.forgetting import Request
from erasure.models.classifier.classifier import Classifier, reinitialise
from erasure.registry import METHODS
from erasure.training.batches import picked
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.optimisers import Optimiser
from erasure.training.run import Run


@METHODS.register
@dataclass(frozen=True)
class BadTeacher:
    """Two teachers, one of them incompetent."""

    epochs: int = setting(1, help="passes over both parts", at_least=1)
    learning_rate: float = setting(1e-4, help="Adam's", above=0)
    batch_size: int = setting(256, help="images per step", at_least=1)
    retain_share: float = setting(0.3, help="share of the images to keep that is used", above=0,
                                  at_most=1)  # fmt: skip
    select: str = setting("all", help="which weights: all, mlp, attention, head, or a pattern")

    def __post_init__(self) -> None:
        check(self)

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        weights = model.weights(self.select)
        model.remember(list(weights))
        order = torch.randperm(
            len(request.retain), generator=run.generator_for(f"{request.stage} kept")
        )
        kept = request.retain.at(order[: ceil(self.retain_share * len(order))].tolist())
        bad = ignorant(model, run.generator_for(f"{request.stage} bad teacher"))
        both = request.forget.and_then(kept)
        targets = torch.cat(
            [bad.predict(request.forget.images), model.predict(kept.images)]
        )  # (n, classes)
        steps = request.steps(self.epochs, self.batch_size, both)

        def loss(step: int) -> dict[str, Tensor]:
            chosen = picked(len(both), self.batch_size, step, run, f"{request.stage} both")
            said = model.forward(model.prepare(both.images[chosen]))[1]
            return {"teachers": divergence(targets[chosen].to(run.device), said)}

        fit(
            Learner(loss, weights, self.learning_rate, Optimiser("adam")), steps=steps, run=run,
            stage=request.stage,
        )  # fmt: skip


def ignorant(model: Classifier, generator: torch.Generator) -> Classifier:
    """The same network with random weights."""
    network = deepcopy(model.network)
    reinitialise(network, generator)
    return Classifier(
        network, name="bad teacher", labels=model.labels, transform=model.transform,
        library=model.library,
    )  # fmt: skip


def divergence(
    targets: Float[Tensor, "b classes"], logits: Float[Tensor, "b classes"]
) -> Float[Tensor, ""]:
    """KL(targets || softmax(logits)), averaged over the batch; targets are probabilities."""
    return F.kl_div(logits.float().log_softmax(1), targets, reduction="batchmean")
