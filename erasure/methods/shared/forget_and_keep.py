"""One loss on what a classifier is to forget, another that holds the rest, in the same step.

    loss    L(forget) + w L(keep) [+ v relation]

L(keep) is CE(retain, right label), or what retain_terms.py has without images of the rest.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.config import setting
from erasure.errors import SettingError
from erasure.methods.shared.retain_terms import (
    Answers,
    Term,
    features_stay,
    relations_stay,
    weights_stay,
)
from erasure.models.classifier.classifier import Classifier
from erasure.requested import Request
from erasure.training.batches import labelled
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.optimisers import Optimiser
from erasure.training.run import Run
from erasure.training.statistics import Statistics

Keeping = Literal["images", "weights", "features", "nothing"]


@dataclass(frozen=True)
class ForgetAndKeep:
    """The settings of a method of this form."""

    epochs: int = setting(
        10, quick=2, help="passes over the images to keep, or else over those to forget", at_least=1
    )
    learning_rate: float = setting(0.01, help="SGD's", above=0)
    batch_size: int = setting(
        256, help="images to keep per step, and as many to forget", at_least=1
    )
    momentum: float = setting(0.9, help="SGD's", at_least=0, at_most=1)
    weight_decay: float = setting(5e-4, help="SGD's", at_least=0)
    keep_by: Keeping = setting(
        "images", help="what holds the rest: its images, or without any of them, or nothing"
    )
    retain_weight: float = setting(
        1.0,
        help="weight of the term that holds it",
        at_least=0,
        when="keep_by=images|weights|features",
    )
    relation_weight: float = setting(
        0.0, help="of the term for kept classes without images (--missing)", at_least=0
    )
    relation_temperature: float = setting(
        1.0, help="of its softmax over images", above=0, when="relation_weight"
    )
    select: str = setting("all", help="which weights: all, mlp, attention, head, or a pattern")
    statistics: bool = setting(
        False, help="let BatchNorm go by each batch, and its statistics follow, as the authors do"
    )

    @property
    def needs_retain(self) -> bool:
        """Whether there must be images to keep."""
        return self.keep_by == "images"


def forget_and_keep(
    settings: ForgetAndKeep, model: Classifier, request: Request, forgetting: Term, run: Run, *,
    masks: dict[str, Tensor] | None = None,
) -> None:  # fmt: skip
    """Train the selected weights, or what the masks leave of them; what they were is remembered.

    SettingError for settings that leave nothing to train or to hold.
    """
    weights = model.weights(settings.select)
    if settings.keep_by == "features":
        weights = _without_head(model, weights)
        masks = None if masks is None else {name: masks[name] for name in weights}
    model.remember(list(weights))
    statistics = Statistics.asked(model, settings, learn=settings.statistics)
    terms = _terms(settings, model, request, weights)
    parts = [(request.forget, "forget")]
    parts += [(request.retain, "retain")] if settings.needs_retain else []

    def loss(step: int) -> dict[str, Tensor]:
        shown = [
            labelled(model, part, settings.batch_size, step, run, f"{request.stage} {name}")
            for part, name in parts
        ]
        x, forgotten = torch.cat([x for x, _ in shown]), shown[0][1]
        kept = shown[1][1] if len(shown) > 1 else forgotten[:0]
        with statistics.learning():
            answers = model.forward(x)
        said = Answers(model, x, *answers, forgotten, kept)
        found = {"forget": forgetting(said)}
        return found | {name: weight * term(said) for name, (weight, term) in terms.items()}

    by = Optimiser("sgd", momentum=settings.momentum, weight_decay=settings.weight_decay)
    fit(
        Learner(loss, weights, settings.learning_rate, by, masks=masks), run=run,
        steps=request.steps(settings.epochs, settings.batch_size, parts[-1][0]),
        stage=request.stage, carried=statistics.carried,
    )  # fmt: skip


def _terms(
    settings: ForgetAndKeep, model: Classifier, request: Request,
    weights: dict[str, nn.Parameter],
) -> dict[str, tuple[float, Term]]:  # fmt: skip
    """The terms that hold what is kept, with their weights, by name."""
    found = dict[str, tuple[float, Term]]()
    if settings.keep_by == "images":
        found["retain"] = settings.retain_weight, _right_labels
    elif settings.keep_by == "weights":
        found["retain"] = settings.retain_weight, weights_stay(weights)
    elif settings.keep_by == "features":
        found["retain"] = settings.retain_weight, features_stay(model, request.classes)
    if settings.relation_weight:
        seen = set(request.retain.labels.tolist()) if settings.needs_retain else set[int]()
        unseen = [number for number in request.kept if number not in seen]
        if not unseen:
            raise SettingError(
                "relation_weight has no effect: every kept class has images. Leave it out, or name "
                "with missing those that have none."
            )
        term = relations_stay(unseen, settings.relation_temperature)
        found["relation"] = settings.relation_weight, term
    return found


def _right_labels(said: Answers) -> Tensor:
    return F.cross_entropy(said.logits[len(said.forgotten) :], said.kept)


def _without_head(model: Classifier, weights: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Those that are not the head's; SettingError if there is no other."""
    head = model.weights("head")
    found = {name: weight for name, weight in weights.items() if name not in head}
    if not found:
        raise SettingError("select must name more than the head, which keep_by features holds.")
    return found
