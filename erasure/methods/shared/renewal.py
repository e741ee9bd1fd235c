"""A second stage of an erasure: noise the weights, and learn the erased model's answers anew.

Lee et al., "Distillation Robustifies Unlearning" (NeurIPS 2025), https://arxiv.org/abs/2506.06278,
whose UNDO does so with language models. theta_1 is the erased model:

    renew    theta <- (1 - alpha) theta_1 + alpha beta Xavier,    of matrices and convolutions
    distil   mean (predict(y_t, t, k) - predict_1(y_t, t, k))^2

over noised pictures y and conditions k that the method gives, none of which shows what is erased:
what theta_1 still holds of that, and nobody asks for, does not come along.

Choices
- The noise is uniform, as in the authors' code. That shrinks vectors without noise and refuses
  convolutions; here norms and biases stay as they are, and a convolution's fans count its window.
- A mask's other weights are neither noised nor moved.
- The teacher is a copy of the weights beside them, in the precision that the networks compute in.
- It ends once the noise loss of pictures to keep is within `tolerance` of the teacher's, which is
  looked at every `LOOK_EVERY` steps, or after `steps`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.errors import SettingError
from erasure.methods.shared.training_data import Drawn, Pictures, noise_loss
from erasure.models.diffusion.model import Condition, DiffusionModel
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.optimisers import Optimiser
from erasure.training.processes import average
from erasure.training.run import Run

LOOK_EVERY = 20
LOOKED_AT = 64  # pictures
NOISED = (2, 4)  # dimensions
STAGE = "distil"

Weights = Mapping[str, nn.Parameter]


@dataclass(frozen=True)
class Renewal:
    """How weights are renewed: uproot's settings, `share` its renew."""

    share: float
    scale: float
    steps: int
    rate: float
    tolerance: float
    decay: bool


@dataclass(frozen=True)
class Question:
    """Noised pictures, and the prompts or the conditions that both models are asked under."""

    z_t: Tensor
    t: Tensor
    asked: Sequence[str] | Condition

    def condition(self, model: DiffusionModel) -> Condition:
        """The conditions, of prompts by the model as it is."""
        return self.asked if isinstance(self.asked, Tensor) else model.encode(self.asked)


def noised(value: Tensor, share: float, scale: float, generator: torch.Generator) -> Tensor:
    """(1 - share) value + share scale Xavier, of a tensor of two or four dimensions."""
    fresh = nn.init.xavier_uniform_(torch.empty(value.shape), generator=generator)
    return (1 - share) * value + share * scale * fresh.to(value)


def check_renewable(method: str, weights: Weights, masks: Mapping[str, Tensor] | None) -> None:
    """SettingError for `method` if no weight that may move is a matrix or a convolution."""
    if not any(
        weight.dim() in NOISED and (masks is None or bool(masks[name].any()))
        for name, weight in weights.items()
    ):
        raise SettingError(
            f"{method}.renew noises weights of two or four dimensions; select and mask leave none."
        )


@torch.no_grad()
def renew(
    weights: Weights, masks: Mapping[str, Tensor] | None, how: Renewal, generator: torch.Generator
) -> None:
    """Noise the weights in place, of masked ones what may move."""
    for name, weight in weights.items():
        if weight.dim() in NOISED:
            value = noised(weight, how.share, how.scale, generator)
            weight.copy_(value if masks is None else torch.where(masks[name], value, weight))


def renew_and_distil(
    model: DiffusionModel, weights: Weights, masks: Mapping[str, Tensor] | None,
    lesson: Callable[[], Mapping[str, Question]], kept: Pictures, how: Renewal, run: Run,
) -> None:  # fmt: skip
    """Noise float32 weights, and let them learn what they answered to the lessons' questions.

    A lesson is this process's part of a batch, drawn afresh; the loss is the mean over its rows.
    `kept` are the pictures by which the end is known.
    """
    teacher = {name: w.detach().clone().to(run.low or w.dtype) for name, w in weights.items()}
    renew(weights, masks, how, run.generator_for("renewal"))
    start = run.lowered(weights)

    def loss(_step: int) -> dict[str, Tensor]:
        questions = lesson()
        with torch.no_grad(), replaced(weights, teacher):
            wanted = _answers(model, questions)
        said = _answers(model, questions)
        rows = sum(len(part) for part in said.values())
        return {
            name: len(part) / rows * F.mse_loss(part, wanted[name]) for name, part in said.items()
        }

    with replaced(weights, teacher):
        reference = kept_loss(model, kept, run)

    def is_as_good(step: int) -> bool:
        if step % LOOK_EVERY:
            return False
        ratio = kept_loss(model, kept, run) / reference
        run.log(STAGE, step, {"kept_loss_ratio": ratio})
        return ratio <= 1 + how.tolerance

    learner = Learner(
        loss, weights, how.rate, Optimiser(cosine=how.decay), masks=masks, start=start
    )
    fit(learner, steps=how.steps, run=run, stage=STAGE, until=is_as_good)


@contextmanager
def replaced(weights: Weights, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it the weights hold other values, for calls without gradients."""
    own = {name: weight.data for name, weight in weights.items()}
    try:
        for name, weight in weights.items():
            weight.data = values[name]
        yield
    finally:
        for name, weight in weights.items():
            weight.data = own[name]


def _answers(model: DiffusionModel, questions: Mapping[str, Question]) -> dict[str, Tensor]:
    """What the model as it is says to each, in one call for all."""
    asked = list(questions.values())
    said = model.predict(
        torch.cat([one.z_t for one in asked]), torch.cat([one.t for one in asked]),
        torch.cat([one.condition(model) for one in asked]),
    )  # fmt: skip
    return dict(zip(questions, said.split([len(one.t) for one in asked]), strict=True))


@torch.no_grad()
def kept_loss(model: DiffusionModel, kept: Pictures, run: Run) -> float:
    """The mean noise loss of the first pictures under their prompts, always by the same noise.

    Every process looks at all of them.
    """
    generator, count = run.generator_for("looks"), min(LOOKED_AT, len(kept.prompts))
    total = torch.zeros((), device=run.device)
    for first in range(0, count, model.images_at_once):
        rows = range(first, min(first + model.images_at_once, count))
        z0 = kept.latents[rows.start : rows.stop]
        t = model.random_times(len(rows), generator)
        noise = torch.randn(z0.shape, generator=generator)
        prompts = [kept.prompts[row] for row in rows]
        drawn: Drawn = run.send(z0), prompts, [], run.send(t), run.send(noise)
        total += len(rows) / count * noise_loss(model, drawn).float()
    average([total])
    return total.item()
