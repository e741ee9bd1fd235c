"""Concept inference and poisoning: unlearn a class through the concepts that speak for it.

Changes: all weights; some with --select.

After "Class Machine Unlearning for Complex Data via Concepts Inference and Data Poisoning" (2024),
https://arxiv.org/abs/2405.15662, by its abstract: no code is published. A concept bottleneck (see
methods/shared/concept_bottleneck.py) is made of the model before the request:

    A_c     mean over images of class c of how much each concept speaks for c
    y'      targeted: the kept class with the largest cos(A_c, A_f); random: any kept class
    loss    CE(forget, y') + CE(retain, right label)

Choices
- Where the abstract is silent: the cosine, the concepts, and that images of which the top concepts
  are less than `least_share` are not poisoned, but left out.
- Concepts are `clusters` of patches of the images at hand, or are shown: `canvas` (Pocket Canvas's
  styles) or a folder CONCEPT/*.png. They are no classes.
- RUN/concepts-N.json has request N's targets, and how much the top concepts of each class that is
  forgotten speak for it before and after, by the bottleneck from before.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.errors import SettingError
from erasure.files.storage import write_json
from erasure.forgetting import Request
from erasure.methods.shared.concept_bottleneck import Bottleneck, make_bottleneck, nearest
from erasure.methods.shared.concept_pictures import clustered, pictured
from erasure.models.classifier.classifier import Classifier
from erasure.registry import METHODS
from erasure.training.batches import labelled
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.optimisers import Optimiser
from erasure.training.run import Run
from erasure_datasets.labelled import Labelled


@METHODS.register
@dataclass(frozen=True)
class ConceptPoison:
    """Wrong labels that are chosen by concepts."""

    epochs: int = setting(10, quick=2, help="passes over the images to keep", at_least=1)
    learning_rate: float = setting(0.01, help="SGD's", above=0)
    batch_size: int = setting(
        256, help="images to keep per step, and as many to forget", at_least=1
    )
    momentum: float = setting(0.9, help="SGD's", at_least=0, at_most=1)
    weight_decay: float = setting(5e-4, help="SGD's", at_least=0)
    poison: Literal["targeted", "random"] = setting("targeted", help="how wrong labels are chosen")
    concepts: str = setting("clusters", help="clusters, canvas, or a folder CONCEPT/*.png")
    clusters: int = setting(16, quick=4, help="how many", at_least=2, when="concepts=clusters")
    pictures: int = setting(100, quick=20, help="with each concept, and as many without it",
                            at_least=2)  # fmt: skip
    slack: float = setting(0.1, help="C of the concepts' support vector machines", above=0)
    sparsity: float = setting(1e-5, help="weight of the head's elastic net (lambda)", at_least=0)
    top: int = setting(3, help="concepts of a class that count", at_least=1)
    least_share: float = setting(
        0.0, help="of an image's evidence that its top concepts must have", at_least=0, at_most=1
    )
    select: str = setting("all", help="which weights: all, mlp, attention, head, or a pattern")

    def __post_init__(self) -> None:
        check(self)

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        weights = model.weights(self.select)
        kept = sorted({*request.kept} & {*request.retain.labels.tolist()})
        gone = sorted(set(request.forget.labels.tolist()))
        if len(kept) == 1 and kept[0] in gone:
            raise SettingError(
                f"images to keep must be of another class than {model.title(kept[0])!r}, too, "
                "whose label those to forget can be taught; keep more."
            )
        found = self._bottleneck(model, request, run)
        means = evidence(model, found, request.forget.and_then(request.retain))
        targets = {own: nearest(means, own, [c for c in kept if c != own]) for own in gone}
        poisoned = self._poisoned(model, found, means, request.forget)
        model.remember(list(weights))

        def loss(step: int) -> dict[str, Tensor]:
            (x_f, y_f), (x_r, y_r) = (
                labelled(model, part, self.batch_size, step, run, f"{request.stage} {name}")
                for part, name in ((poisoned, "forget"), (request.retain, "retain"))
            )
            wrong = self._wrong(y_f, targets, kept, run)
            logits = model.forward(torch.cat([x_f, x_r]))[1]
            return {
                "forget": F.cross_entropy(logits[: len(wrong)], wrong),
                "retain": F.cross_entropy(logits[len(wrong) :], y_r),
            }

        by = Optimiser("sgd", momentum=self.momentum, weight_decay=self.weight_decay)
        fit(
            Learner(loss, weights, self.learning_rate, by), run=run, stage=request.stage,
            steps=request.steps(self.epochs, self.batch_size, request.retain),
        )  # fmt: skip
        if run.is_main:
            after = evidence(model, found, request.forget)
            told = [self._told(model, found, own, to, means, after) for own, to in targets.items()]
            write_json(run.folder / f"concepts-{request.number}.json", told)

    def _bottleneck(self, model: Classifier, request: Request, run: Run) -> Bottleneck:
        part = request.forget.and_then(request.retain)
        concepts = (
            clustered(model, part, self.clusters, self.pictures, run)
            if self.concepts == "clusters"
            else pictured(model, self.concepts, self.pictures, run)
        )
        return make_bottleneck(
            concepts, model.features(part.images), part.labels, len(model.labels),
            slack=self.slack, sparsity=self.sparsity,
        )  # fmt: skip

    def _poisoned(
        self, model: Classifier, found: Bottleneck, means: Tensor, part: Labelled
    ) -> Labelled:
        """The images whose top concepts have their share. SettingError if there are none."""
        if not self.least_share:
            return part
        speaking = found.attributions(model.features(part.images), part.labels).abs()
        best = means[part.labels].topk(min(self.top, means.shape[1]), dim=1).indices
        share = speaking.gather(1, best).sum(1) / speaking.sum(1).clamp(min=1e-12)
        places = torch.nonzero(share >= self.least_share).flatten().tolist()
        if not places:
            raise SettingError(
                f"ConceptPoison.least_share must leave an image to poison; the largest share is "
                f"{float(share.max()):.3f}, got {self.least_share:g}."
            )
        return part.at(places)

    def _wrong(
        self, labels: Int[Tensor, " b"], targets: dict[int, int], kept: list[int], run: Run
    ) -> Int[Tensor, " b"]:
        """The label that each image is taught."""
        if self.poison == "targeted":
            return labels.new_tensor([targets[int(label)] for label in labels])
        dice = torch.rand(run.whole(len(labels)), generator=run.generator)
        drawn = run.shard(dice).tolist()
        others = [[c for c in kept if c != int(label)] for label in labels]
        return labels.new_tensor([o[int(d * len(o))] for o, d in zip(others, drawn, strict=True)])

    def _told(
        self, model: Classifier, found: Bottleneck, own: int, target: int, before: Tensor,
        after: Tensor,
    ) -> dict[str, Any]:  # fmt: skip
        best = before[own].topk(min(self.top, len(found.names))).indices
        masses = [float(means[own, best].clamp(min=0).sum()) for means in (before, after)]
        return {
            "class": model.title(own),
            "target": model.title(target) if self.poison == "targeted" else None,
            "concepts": {found.names[k]: float(before[own, k]) for k in best.tolist()},
            "before": masses[0],
            "after": masses[1],
        }


def evidence(model: Classifier, found: Bottleneck, part: Labelled) -> Float[Tensor, "classes k"]:
    """A: how much each concept speaks for each class that has images, on average."""
    speaking = found.attributions(model.features(part.images), part.labels)
    which = F.one_hot(part.labels, len(model.labels)).double()
    return which.T @ speaking / which.sum(0)[:, None].clamp(min=1)
