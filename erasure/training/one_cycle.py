"""Settings of a training from scratch; nothing heavy is imported, since help shows them."""

from dataclasses import dataclass
from math import ceil
from typing import Literal

from erasure.config import check, setting

Kind = Literal["auto", "sgd", "adamw", "muon"]


@dataclass(frozen=True)
class OneCycle:
    """A learning rate that rises and falls once, over shifted and mirrored images.

    Smith and Topin, "Super-Convergence" (2018), https://arxiv.org/abs/1708.07120.
    """

    epochs: int = setting(20, quick=1, help="passes over the training images", at_least=1)
    optimiser: Kind = setting(
        "auto", help="auto is sgd where there is BatchNorm, else muon, which learns in fewer steps"
    )
    learning_rate: float = setting(
        0.0, help="at its highest; 0 for the optimiser's own: 0.1 for sgd, else 0.001", at_least=0
    )
    batch_size: int = setting(128, help="images per step", at_least=1)
    weight_decay: float = setting(
        -1.0, help="below 0: the optimiser's own, 5e-4, 0.05 or 0.01", at_least=-1
    )
    warmup: float = setting(0.2, help="share of the steps in which the rate rises", at_least=0,
                            at_most=0.9)  # fmt: skip
    label_smoothing: float = setting(0.05, help="share of the target that all classes have",
                                     at_least=0, at_most=0.9)  # fmt: skip
    shift: float = setting(0.125, help="of the images, as a share of their side", at_least=0,
                           at_most=0.5)  # fmt: skip
    mirror: bool = setting(True, help="mirror every other image")

    def __post_init__(self) -> None:
        check(self)

    def steps(self, count: int) -> int:
        """Optimiser steps over so many images."""
        return self.epochs * ceil(count / self.batch_size)
