"""UNSIR: noise that the classifier takes least for a class is taught as that class; then repair.

Changes: all weights; some with --select.

Tarun, Chundawat, Mandal, Kankanhalli, "Fast Yet Effective Machine Unlearning" (2021, TNNLS 2023),
https://arxiv.org/abs/2111.08947. No image of a forgotten class is looked at.

    noise     -CE(noise, forgotten class) + lambda |noise|^2, down the noise
    impair    CE(noise, forgotten class) + CE(retain)
    repair    CE(retain)

Choices
- |noise|^2 sums over an image's prepared values, and both terms are means over the noise; as
  published. The authors draw pure noise images for each forgotten class; so do we.
- In the impair pass they mix 20 copies of the noise into images to keep; here each step has a batch
  of either under one loss.
- A dry run times the impair pass alone, where training begins; the other is as long.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.forgetting import Request
from erasure.models.classifier.classifier import Classifier
from erasure.registry import METHODS
from erasure.training.batches import labelled, picked
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.run import Run


@METHODS.register
@dataclass(frozen=True)
class UNSIR:
    """Error-maximising noise, impair and repair."""

    of_classes_alone: ClassVar = True

    noise_images: int = setting(256, quick=16, help="of noise per forgotten class", at_least=1)
    noise_steps: int = setting(40, quick=5, help="steps that make them", at_least=1)
    noise_rate: float = setting(0.1, help="Adam's on the noise", above=0)
    noise_penalty: float = setting(0.1, help="on the noise's size (lambda)", at_least=0)
    impair_epochs: int = setting(1, help="passes over the images to keep, with noise", at_least=1)
    impair_rate: float = setting(0.02, help="Adam's in them", above=0)
    repair_epochs: int = setting(1, help="passes over the images to keep alone", at_least=1)
    repair_rate: float = setting(0.01, help="Adam's in them", above=0)
    batch_size: int = setting(256, help="images to keep per step, and as many of noise", at_least=1)
    select: str = setting("all", help="which weights: all, mlp, attention, head, or a pattern")

    def __post_init__(self) -> None:
        check(self)

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        weights = model.weights(self.select)
        model.remember(list(weights))
        noise, wrong = self._noise(model, request, run)

        def impair(step: int) -> dict[str, Tensor]:
            x, right = self._kept(model, request, step, run, "impair")
            chosen = picked(len(noise), self.batch_size, step, run, f"{request.stage} noise")
            chosen = chosen.to(noise.device)
            logits = model.forward(torch.cat([noise[chosen], x]))[1]
            return {
                "noise": F.cross_entropy(logits[: len(chosen)], wrong[chosen]),
                "retain": F.cross_entropy(logits[len(chosen) :], right),
            }

        def repair(step: int) -> dict[str, Tensor]:
            x, right = self._kept(model, request, step, run, "repair")
            return {"retain": F.cross_entropy(model.forward(x)[1], right)}

        for loss, epochs, rate, stage in (
            (impair, self.impair_epochs, self.impair_rate, f"{request.stage} impair"),
            (repair, self.repair_epochs, self.repair_rate, request.stage),
        ):
            steps = request.steps(epochs, self.batch_size, request.retain)
            fit(Learner(loss, weights, rate), steps=steps, run=run, stage=stage)

    def _kept(
        self, model: Classifier, request: Request, step: int, run: Run, name: str
    ) -> tuple[Tensor, Tensor]:
        return labelled(
            model, request.retain, self.batch_size, step, run, f"{request.stage} {name}"
        )

    def _noise(
        self, model: Classifier, request: Request, run: Run
    ) -> tuple[Float[Tensor, "n 3 s s"], Int[Tensor, " n"]]:
        """The noise as prepared images, and the forgotten class that each stands for."""
        size, stage = model.transform.size, f"{request.stage} noise"
        labels = torch.tensor(request.classes).repeat_interleave(self.noise_images)
        start = torch.randn((len(labels), 3, size, size), generator=run.generator_for(stage))
        made, wrong = list[Tensor](), labels.to(model.device)
        parts = list(zip(start.split(self.batch_size), wrong.split(self.batch_size), strict=True))
        with run.progress("noise", self.noise_steps * len(parts)) as bar:
            for part, classes in parts:
                noise = part.to(model.device).requires_grad_()
                adam = torch.optim.Adam([noise], self.noise_rate)
                for _ in range(self.noise_steps):
                    loss = noise_loss(model.forward(noise)[1], classes, noise, self.noise_penalty)
                    (noise.grad,) = torch.autograd.grad(loss, [noise])
                    adam.step()
                    bar.advance()
                made.append(noise.detach())
        return torch.cat(made), wrong


def noise_loss(
    logits: Float[Tensor, "n classes"], classes: Int[Tensor, " n"], noise: Float[Tensor, "n ..."],
    penalty: float,
) -> Float[Tensor, ""]:  # fmt: skip
    """-CE + lambda |noise|^2, means over the noise."""
    size = noise.square().flatten(1).sum(1).mean()
    return penalty * size - F.cross_entropy(logits, classes)
