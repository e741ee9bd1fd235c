"""Retrain: a new model that never saw what is forgotten, the standard the others are held to.

Changes: all weights, and BatchNorm's statistics, trained anew.

    loss    CE(retain), label smoothing 0.05, from random weights

Choices
- The head keeps its size, so that every figure is over the same classes; nothing ever asks for the
  forgotten ones, and earlier requests' classes are left out as well.
- The recipe `suite` is that of the pocket suite's judges: Muon on the matrices, AdamW on the rest,
  shifted, mirrored and recoloured images, an average of the weights at the end, by steps. It needs
  many images per class: give `--images`.
- The recipe `one-cycle` is that of `erasure train`, by epochs. A model that it trained says in its
  presets that it is to be retrained so, by the same settings and from its library's own random
  weights: the standard then differs from the model in nothing but what it saw.
- BatchNorm learns its statistics with the weights, and they are averaged as the weights are.
- Each request starts from random weights again; a sequence is retrained once per request.
"""

from dataclasses import dataclass, fields
from typing import Literal

from erasure.config import check, setting
from erasure.errors import SettingError
from erasure.forgetting import Request
from erasure.models.classifier.classifier import Classifier, reinitialise
from erasure.models.classifier.load import random_weights
from erasure.registry import METHODS
from erasure.training.batches import augmented
from erasure.training.one_cycle import Kind, OneCycle
from erasure.training.optimisers import Optimiser
from erasure.training.recipe import Recipe, learn, one_cycle, refuse_single_images
from erasure.training.run import Run

AVERAGE = 0.995


@METHODS.register
@dataclass(frozen=True)
class Retrain:
    """Training from scratch on what is kept."""

    recipe: Literal["suite", "one-cycle"] = setting(
        "suite", help="the pocket suite's, or that of `erasure train`"
    )
    steps: int = setting(3000, quick=100, help="optimiser steps", at_least=1, when="recipe=suite")
    learning_rate: float = setting(
        1e-3, help="of both optimisers, falling by a cosine; one-cycle: at its highest",
        at_least=0,
    )  # fmt: skip
    batch_size: int = setting(128, help="images per step", at_least=1)
    epochs: int = setting(
        20, quick=1, help="passes over the images to keep", at_least=1, when="recipe=one-cycle"
    )
    optimiser: Kind = setting(
        "auto",
        help="auto is sgd where there is BatchNorm, else muon",
        when="recipe=one-cycle",
    )
    weight_decay: float = setting(
        -1.0, help="below 0 the optimiser's own", at_least=-1, when="recipe=one-cycle"
    )
    warmup: float = setting(0.2, help="share of the steps in which the rate rises",
                            at_least=0, at_most=0.9, when="recipe=one-cycle")  # fmt: skip
    label_smoothing: float = setting(
        0.05,
        help="share of the target that all classes have",
        at_least=0,
        at_most=0.9,
        when="recipe=one-cycle",
    )
    shift: float = setting(0.125, help="of the images, as a share of their side",
                           at_least=0, at_most=0.5, when="recipe=one-cycle")  # fmt: skip
    mirror: bool = setting(True, help="mirror every other image", when="recipe=one-cycle")

    def __post_init__(self) -> None:
        check(self)
        if self.recipe == "suite" and not self.learning_rate:
            raise SettingError("Retrain.learning_rate must be above 0 in the recipe suite; got 0.")

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        refuse_single_images("Retrain", self.batch_size, model, run)
        model.remember([*model.weights("all"), *model.buffers()])
        generator = run.generator_for(f"{request.stage} weights")
        part = request.retain
        if self.recipe == "one-cycle":
            cycle = OneCycle(**{item.name: getattr(self, item.name) for item in fields(OneCycle)})
            random_weights(model, generator)
            recipe, steps = one_cycle(cycle, model), cycle.steps(len(part))
        else:
            reinitialise(model.network, generator)
            by = Optimiser("muon", weight_decay=0.01, cosine=True)
            recipe = Recipe(by, self.learning_rate, self.batch_size, 0.05, augmented, AVERAGE)
            steps = self.steps
        learn(model, part, recipe, steps=steps, run=run, stage=request.stage)
