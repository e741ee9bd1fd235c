"""Blindspot: learn what a model that never saw the forgotten would say of them.

Changes: all weights; some with --select.

Tarun, Chundawat, Mandal, Kankanhalli, "Deep Regression Unlearning" (ICML 2023),
https://arxiv.org/abs/2210.08196, here for classes. B is a new model, trained for a while on what is
kept; A_l are the channel means of the squared output of block l, of length 1:

    loss    c (KL(B || student) + beta sum_l mean (A_l - A_l^B)^2) on forget + (1 - c) CE on retain

Choices
- The authors' L1 distance of predicted numbers is here the divergence of predicted classes.
- B is trained by the recipe `suite` of retrain, on `blind_steps` batches instead of 2 passes.
- c, in the paper the share of images to forget in a batch, is `forget_share`: a batch has as many
  of each kind.
- Attention maps are of transformer blocks. For other networks set `attention_weight` (beta) to 0.
- B's answers are looked up, not asked again: its images are always the same.
"""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.errors import SettingError
from erasure.forgetting import Request
from erasure.models.classifier.blocks import at_places, block_names, width_of
from erasure.models.classifier.classifier import Classifier, reinitialise
from erasure.registry import METHODS
from erasure.training.batches import augmented, labelled, picked
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.optimisers import Optimiser
from erasure.training.recipe import Recipe, learn, refuse_single_images
from erasure.training.run import Run
from erasure_datasets.labelled import Labelled

SMOOTHING, AVERAGE = 0.05, 0.995  # of B's training, as in the recipe `suite` of retrain


@METHODS.register
@dataclass(frozen=True)
class Blindspot:
    """Distillation from a model that is blind for the forgotten."""

    epochs: int = setting(1, help="passes over the images to keep", at_least=1)
    learning_rate: float = setting(1e-4, help="AdamW's, falling by a cosine", above=0)
    batch_size: int = setting(64, help="images to keep per step, and as many to forget", at_least=1)
    forget_share: float = setting(0.5, help="weight of what is forgotten (c)", above=0,
                                  at_most=1)  # fmt: skip
    attention_weight: float = setting(50.0, help="of the attention maps (beta)", at_least=0)
    blind_steps: int = setting(100, quick=10, help="optimiser steps of B", at_least=1)
    blind_rate: float = setting(1e-3, help="Muon's, of B", above=0)
    select: str = setting("all", help="which weights: all, mlp, attention, head, or a pattern")

    def __post_init__(self) -> None:
        check(self)

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        weights = model.weights(self.select)
        blocks = block_names(model) if self.attention_weight else []
        if self.attention_weight and not blocks:
            raise SettingError(
                f"Blindspot.attention_weight must be 0 for {model.name}, which has no transformer "
                f"blocks; got {self.attention_weight:g}."
            )
        refuse_single_images("Blindspot", self.batch_size, model, run)
        model.remember(list(weights))
        blind = self._blind(model, request, run)
        logits, maps = answers(blind, request.forget, blocks)

        def loss(step: int) -> dict[str, Tensor]:
            names = [f"{request.stage} {kind}" for kind in ("forget", "retain")]
            x_f, _ = labelled(model, request.forget, self.batch_size, step, run, names[0])
            chosen = picked(len(request.forget), self.batch_size, step, run, names[0])
            x_r, right = labelled(model, request.retain, self.batch_size, step, run, names[1])
            with outputs_of(model, blocks) as seen:
                said = model.forward(torch.cat([x_f, x_r]))[1]
            wanted = logits[chosen].to(said).log_softmax(1)
            answer = said[: len(x_f)].log_softmax(1)
            terms = {
                "forget": self.forget_share
                * F.kl_div(answer, wanted, log_target=True, reduction="batchmean"),
                "retain": (1 - self.forget_share) * F.cross_entropy(said[len(x_f) :], right),
            }
            if blocks:
                apart = [
                    (attention_map(now[: len(x_f)]) - of_b[chosen].to(now)).square().mean()
                    for now, of_b in zip(seen, maps, strict=True)
                ]
                weight = self.forget_share * self.attention_weight
                terms["attention"] = weight * torch.stack(apart).sum()
            return terms

        steps = request.steps(self.epochs, self.batch_size, request.retain)
        by = Optimiser("adamw", weight_decay=0.01, cosine=True)
        fit(
            Learner(loss, weights, self.learning_rate, by), steps=steps, run=run,
            stage=request.stage,
        )  # fmt: skip

    def _blind(self, model: Classifier, request: Request, run: Run) -> Classifier:
        """B: another classifier of the same kind, which learns what is kept alone."""
        stage = f"{request.stage} blind"
        blind = Classifier(
            copy.deepcopy(model.network), name=f"{model.name}, blind", labels=model.labels,
            transform=model.transform, library=model.library, folder=model.folder,
        )  # fmt: skip
        reinitialise(blind.network, run.generator_for(f"{stage} weights"))
        by = Optimiser("muon", weight_decay=0.01, cosine=True)
        recipe = Recipe(by, self.blind_rate, self.batch_size, SMOOTHING, augmented, AVERAGE)
        with run.preparing():
            learn(blind, request.retain, recipe, steps=self.blind_steps, run=run, stage=stage)
        return blind


@torch.no_grad()
def answers(
    model: Classifier, part: Labelled, blocks: list[str], batch_size: int = 128
) -> tuple[Float[Tensor, "n classes"], list[Float[Tensor, "n places"]]]:
    """(the logits of all images, the attention map of each block), on the CPU."""
    logits, maps = [], []
    for images in part.images.split(batch_size):
        with outputs_of(model, blocks) as seen:
            logits.append(model.forward(model.prepare(images))[1].float().cpu())
        maps.append([attention_map(output).float().cpu() for output in seen])
    return torch.cat(logits), [torch.cat(parts) for parts in zip(*maps, strict=True)]


@contextmanager
def outputs_of(model: Classifier, modules: list[str]) -> Iterator[list[Tensor]]:
    """Within it the outputs of these blocks, (b, places, d), are added to the list."""
    seen: list[Tensor] = []

    def noting(width: int):
        def note(_module: nn.Module, _given: tuple[Tensor, ...], said: Tensor) -> None:
            seen.append(at_places(said, width))

        return note

    with ExitStack() as stack:
        for name in modules:
            hook = noting(width_of(model, name))
            stack.callback(model.module(name).register_forward_hook(hook).remove)
        yield seen


def attention_map(output: Float[Tensor, "b places d"]) -> Float[Tensor, "b places"]:
    """How much happens at each place: the mean of the squares, of length 1 for each image."""
    return F.normalize(output.float().square().mean(2), dim=1)
