"""SCRUB: a student that stays away from its teacher on what to forget, and near it on the rest.

Changes: all weights; some with --select.

Kurmanji, Triantafillou, Hayes, Triantafillou, "Towards Unbounded Machine Unlearning" (NeurIPS
2023), https://arxiv.org/abs/2302.09880. In turn, a pass each:

    forget    -KL(teacher || student), in the first `forget_epochs` rounds
    keep      gamma CE(retain) + alpha KL(teacher || student)

KL is of softened answers (temperature T) times T^2; the teacher is the original model.

Choices
- The numbers are those of the authors' small-scale notebooks; their learning rate falls by steps at
  epochs 5, 8 and 9, ours by a cosine. The elements of a gradient are clipped at 0.2, as theirs.
- The student begins as its teacher, and there the divergence has no slope. The authors' student
  differs, being in training mode, with BatchNorm by the batch and dropout; ours is not, and begins
  with a pass that keeps, which sets it apart.
- Nothing bounds the forget term: few rounds, a small rate and the passes between them do.
- Rewinding (SCRUB+R), which picks an earlier checkpoint whose error on the forgotten fits that of
  unseen images, is left out: it stops a trace of over-forgetting, which a class that shall be gone
  wholly does not have.
"""

from dataclasses import dataclass
from math import ceil

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.errors import SettingError
from erasure.forgetting import Request
from erasure.models.classifier.classifier import Classifier
from erasure.registry import METHODS
from erasure.training.batches import labelled
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.optimisers import Optimiser
from erasure.training.run import Run

CLIP = 0.2


@METHODS.register
@dataclass(frozen=True)
class SCRUB:
    """A student that leaves its teacher."""

    epochs: int = setting(
        10, quick=2, help="rounds, each with a pass over the images to keep, after a first one",
        at_least=1,
    )  # fmt: skip
    forget_epochs: int = setting(3, quick=1, help="of which so many follow one over those to "
                                 "forget", at_least=1)  # fmt: skip
    learning_rate: float = setting(5e-4, help="SGD's, falling to 0 by a cosine", above=0)
    batch_size: int = setting(128, help="images to keep per step", at_least=1)
    forget_batch_size: int = setting(32, help="images to forget per step", at_least=1)
    momentum: float = setting(0.9, help="SGD's", at_least=0, at_most=1)
    weight_decay: float = setting(5e-4, help="SGD's", at_least=0)
    retain_weight: float = setting(0.99, help="of the cross-entropy (gamma)", at_least=0)
    distil_weight: float = setting(0.001, help="of the divergence on what is kept (alpha)",
                                   at_least=0)  # fmt: skip
    temperature: float = setting(4.0, help="of the softened answers (T)", above=0)
    select: str = setting("all", help="which weights: all, mlp, attention, head, or a pattern")

    def __post_init__(self) -> None:
        check(self)
        if self.forget_epochs > self.epochs:
            raise SettingError(
                f"SCRUB.forget_epochs must be at most epochs ({self.epochs}), each of which "
                f"follows one of them; got {self.forget_epochs}."
            )

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        weights = model.weights(self.select)
        model.remember(list(weights))
        turns = passes(
            ceil(len(request.forget) / self.forget_batch_size),
            ceil(len(request.retain) / self.batch_size), self.forget_epochs, self.epochs,
        )  # fmt: skip

        def loss(step: int) -> dict[str, Tensor]:
            is_forgetting, number = turns[step]
            part, name, size = (
                (request.forget, "forget", self.forget_batch_size)
                if is_forgetting
                else (request.retain, "retain", self.batch_size)
            )
            x, right = labelled(model, part, size, number, run, f"{request.stage} {name}")
            with model.original():
                teacher = model.forward(x)[1]
            student = model.forward(x)[1]
            apart = softened_divergence(teacher, student, self.temperature)
            if is_forgetting:
                return {"forget": -apart}
            return {
                "retain": self.retain_weight * F.cross_entropy(student, right),
                "distil": self.distil_weight * apart,
            }

        by = Optimiser("sgd", momentum=self.momentum, weight_decay=self.weight_decay, cosine=True)
        fit(
            Learner(loss, weights, self.learning_rate, by, clip=CLIP), run=run,
            steps=len(turns), stage=request.stage,
        )  # fmt: skip


def passes(
    forget_steps: int, retain_steps: int, forget_epochs: int, epochs: int
) -> list[tuple[bool, int]]:
    """For each step, whether it forgets, and its number among those of its kind.

    A pass takes `forget_steps` or `retain_steps`; one that keeps begins, and ends every round.
    """
    turns = [(False, i) for i in range(retain_steps)]
    for epoch in range(epochs):
        if epoch < forget_epochs:
            turns += [(True, epoch * forget_steps + i) for i in range(forget_steps)]
        turns += [(False, (epoch + 1) * retain_steps + i) for i in range(retain_steps)]
    return turns


def softened_divergence(
    teacher: Float[Tensor, "b classes"], student: Float[Tensor, "b classes"], temperature: float
) -> Float[Tensor, ""]:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), averaged over the batch."""
    was, now = ((logits.float() / temperature).log_softmax(1) for logits in (teacher, student))
    return temperature**2 * F.kl_div(now, was, log_target=True, reduction="batchmean")
