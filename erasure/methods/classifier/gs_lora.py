"""GS-LoRA and GS-LoRA++: forget classes one request after another, with group-sparse adapters.

Changes: an adapter per request on the feed-forward layers.

Zhao, Ni, Wang, Cong, Zhao, Zhang, Liu, "Continual Forgetting for Pre-trained Vision Models" (CVPR
2024), https://arxiv.org/abs/2403.11530, and "Practical Continual Forgetting for Pre-trained Vision
Models" (2025), https://arxiv.org/abs/2501.09705, for the prototypes (++).

    loss       CE(retain) + beta relu(BND - CE(forget)) + a sum_l sqrt(sum |A|^2 + |B|^2)
               [+ prototypes]
    prototypes w_f relu(BND_p - KL_f) + w_r KL_r,  KL = KL(softmax(p_y) || softmax(e))

A and B are the low-rank matrices of both feed-forward linears of transformer block l, which is one
group; p_y is the mean feature of class y under the model from before the request, e the features
now. The backbone stays as it is; each request has its own adapter.

Choices
- `bound` is BND in units of log(classes), the cross-entropy of a head that knows nothing. The
  published 105 to 110 belong to CosFace's scale of 64; `cross_entropy_bound` takes such a value.
- The square root has a finite slope at zero (1e-12 inside), where the authors' has none.
- The group weight is 0 for `group_warmup` epochs, then `group_weight`.
- A group whose adapter moves no weight by more than `zero_below` of that weight's own norm counts
  as zero: it is dropped, named in the log and not stored.
- The cosine falls at every step from the full rate to 0; theirs by epoch, after 3 epochs of warm-up
  from 1e-6, to 1e-5. The average moves at every step, by as much per epoch as theirs once in it.
- The average of the adapter over the last epochs (decay `average`, from `average_from`) is what
  stays; the authors' continual script evaluates the un-adapted weights there.
- Prototypes come from the model before the request. Their single-task script computes them before
  it loads the weights.
- Accuracies are plain; the authors' evaluation applies CosFace's margin to the true class.
- `augment` is not theirs: with four images per class, what is kept is remembered by heart without.
- Group names come from the network itself, any number of blocks; rank 8 with alpha 1 as published.
"""

from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.forgetting import Request
from erasure.models.classifier.blocks import Place, groups
from erasure.models.classifier.classifier import Classifier
from erasure.models.lora import Adapter, linears, merge, moving_groups
from erasure.registry import METHODS
from erasure.training.averages import Average
from erasure.training.batches import augmented, labelled
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.optimisers import Optimiser
from erasure.training.run import Run


@METHODS.register
@dataclass(frozen=True)
class GSLoRA:
    """Group-sparse LoRA for continual forgetting."""

    of_classes_alone: ClassVar = True

    epochs: int = setting(100, quick=10, help="passes over the images to keep", at_least=1)
    least_steps: int = setting(0, help="steps at least, however few the images", at_least=0)
    learning_rate: float = setting(1e-2, help="AdamW's, falling to 0 by a cosine", above=0)
    batch_size: int = setting(48, help="images to keep per step, and as many to forget", at_least=1)
    weight_decay: float = setting(0.05, help="AdamW's", at_least=0)
    rank: int = setting(8, help="of the adapters (r)", at_least=1)
    alpha: float = setting(1.0, help="the adapters' effect is alpha / rank B A", above=0)
    place: Place = setting("ffn", help="which linears are adapted")
    forget_weight: float = setting(0.15, help="of the forget term (beta)", at_least=0)
    bound: float = setting(
        3.0, help="BND as a multiple of log(classes)", above=0, when="not cross_entropy_bound"
    )
    cross_entropy_bound: float = setting(
        0.0, help="BND itself, if above 0", at_least=0, when="forget_weight"
    )
    group_weight: float = setting(0.01, help="of the group lasso (a)", at_least=0)
    group_warmup: int = setting(20, quick=2, help="first epochs without it", at_least=0)
    zero_below: float = setting(1e-3, help="relative change below which a group is dropped",
                                at_least=0)  # fmt: skip
    prototypes: bool = setting(False, help="the prototype losses of GS-LoRA++")
    prototype_bound: float = setting(
        18.0, help="BND of the prototype term", above=0, when="prototypes"
    )
    prototype_forget_weight: float = setting(0.01, help="w_f", at_least=0, when="prototypes")
    prototype_retain_weight: float = setting(0.0, help="w_r", at_least=0, when="prototypes")
    augment: bool = setting(
        False, help="shift, mirror and recolour the images, where there are few of them"
    )
    average: float = setting(0.9, help="decay of the adapter's average, per epoch", at_least=0,
                             at_most=1)  # fmt: skip
    average_from: int = setting(30, quick=3, help="epoch at which it begins", at_least=0)

    def __post_init__(self) -> None:
        check(self)

    def forget(self, model: Classifier, request: Request, run: Run) -> dict[str, Tensor]:
        blocks = groups(model, self.place)
        layers = linears(model, [name for block in blocks for name in block])
        adapter = Adapter.fresh(
            layers, self.rank, self.alpha, run.generator_for(f"adapter {request.number}")
        )
        weights = adapter.weights()
        mean = Average(weights)
        bound = self.cross_entropy_bound or self.bound * log(len(model.labels))
        known = prototypes(model, request) if self.prototypes else None
        steps = request.steps(self.epochs, self.batch_size, request.retain)
        steps = max(steps, self.least_steps)
        per_epoch = max(steps // self.epochs, 1)
        share = 1 - self.average ** (1 / per_epoch)

        def loss(step: int) -> dict[str, Tensor]:
            if step >= self.average_from * per_epoch:
                is_first = step == self.average_from * per_epoch
                mean.follow(1 if is_first else share)
            (x_f, y_f), (x_r, y_r) = (
                labelled(model, part, self.batch_size, step, run, f"{request.stage} {name}")
                for part, name in ((request.forget, "forget"), (request.retain, "retain"))
            )
            if self.augment:
                x_f, x_r = augmented(x_f, run), augmented(x_r, run)
            features, logits = model.forward(torch.cat([x_f, x_r]))
            terms = {
                "retain": F.cross_entropy(logits[len(y_f) :], y_r),
                "forget": self.forget_weight
                * bounded_loss(F.cross_entropy(logits[: len(y_f)], y_f), bound),
            }
            if step >= self.group_warmup * per_epoch and self.group_weight:
                terms["groups"] = self.group_weight * adapter.group_norms(blocks).sum()
            if known is not None:
                far = prototype_distance(known[y_f], features[: len(y_f)])
                near = prototype_distance(known[y_r], features[len(y_f) :])
                terms["prototypes"] = (
                    self.prototype_forget_weight * bounded_loss(far, self.prototype_bound)
                    + self.prototype_retain_weight * near
                )
            return terms

        with adapter.on(model, layers):
            by = Optimiser("adamw", weight_decay=self.weight_decay, cosine=True)
            fit(
                Learner(loss, weights, self.learning_rate, by), steps=steps, run=run,
                stage=request.stage,
                carried={f"mean.{n}": matrix for n, matrix in mean.means.items()},
            )  # fmt: skip
        mean.follow(share if self.average_from < self.epochs else 1)
        kept, moved = moving_groups(model, mean.means, blocks, adapter.scale, self.zero_below)
        norms = {f"block {number}": norm for number, norm in enumerate(moved)}
        run.log_end(f"{request.stage} groups", steps, norms)
        merge(model, kept, adapter.scale)
        return {name: matrix.float().cpu().clone() for name, matrix in kept.items()}


def bounded_loss(value: Float[Tensor, ""], bound: float) -> Float[Tensor, ""]:
    """relu(bound - value): worth raising `value` up to the bound, and no further."""
    return F.relu(bound - value)


def prototype_distance(
    prototypes: Float[Tensor, "b d"], features: Float[Tensor, "b d"]
) -> Float[Tensor, ""]:
    """KL(softmax(prototype) || softmax(feature)), averaged over the batch."""
    return F.kl_div(
        features.log_softmax(1), prototypes.log_softmax(1), log_target=True, reduction="batchmean"
    )


@torch.no_grad()
def prototypes(
    model: Classifier, request: Request, batch_size: int = 128
) -> Float[Tensor, "classes d"]:
    """The mean feature of each class that has images, by class index; zeros for the others."""
    sums, counts = torch.zeros(0), torch.zeros(len(model.labels), 1, device=model.device)
    for part in (request.forget, request.retain):
        for images, labels in zip(
            part.images.split(batch_size), part.labels.split(batch_size), strict=True
        ):
            features = model.forward(model.prepare(images))[0]
            if not len(sums):
                sums = torch.zeros(len(model.labels), features.shape[1], device=model.device)
            where: Int[Tensor, " b"] = labels.to(model.device)
            sums.index_add_(0, where, features)
            counts.index_add_(0, where, torch.ones(len(where), 1, device=model.device))
    return sums / counts.clamp(min=1)
