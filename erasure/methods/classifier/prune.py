"""Unlearn-Sparse: prune a network first, then let another method forget in what is left of it.

Changes: zeros in a share of all linears and convolutions, and what the method that follows changes.

Jia, Liu, Ram, Yao, Liu, Liu, Sharma, Liu, "Model Sparsity Can Simplify Machine Unlearning" (NeurIPS
2023), https://arxiv.org/abs/2304.04934:

    m       1 on the share 1 - s of the weights with the largest score
    recover CE(forget and retain) on m * theta, as if no request had come yet
    then    any method, on m * theta

Scores: `omp` |theta|, once; `imp` |theta| in rounds that each take a fifth, with recovery between;
`synflow` (methods/shared/synflow.py) without data; `random`, the control.

Choices
- Of a transformer, the linears of its blocks are pruned; of another network, all convolutions and
  linears but the head. The authors' code prunes convolutions alone, and so nothing in a ViT.
- Recovery goes on from the weights at hand: a finished model has no epoch 8 to rewind to.
- One ranking runs over all of them, and the zeros are held at every step of the recovery and of
  the method that follows. Where that one changes weights without steps, zeros are put back.
- The first request prunes; further ones find the zeros and hold them.
- The method that follows has its presets, and `then_settings` over them.
- 0.95 is for networks of 11 M weights. Theirs besides: snip, grasp, pruning while unlearning.
"""

from dataclasses import dataclass
from math import ceil, log
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.errors import SettingError
from erasure.forgetting import Request, refuse_unsuited
from erasure.methods.shared.following import QUICK, check_following, following
from erasure.methods.shared.pruning import largest_stay, put_zeros, sparsity_of, staying
from erasure.methods.shared.synflow import synflow
from erasure.models.classifier.blocks import Place, block_names, groups
from erasure.models.classifier.classifier import Classifier
from erasure.registry import METHODS
from erasure.training.batches import labelled
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.optimisers import Optimiser
from erasure.training.run import Run
from erasure_datasets.labelled import Labelled

ROUND = 0.2
REFUSED = {
    "prune": "it is prune itself",
    "gs-lora": "its adapters fill the zeros",
    "retrain": "it begins with other weights",
    "s3t": "it trains adapters of its own",
}


@METHODS.register
@dataclass(frozen=True)
class Prune:
    """Pruning, recovery, and another method."""

    score: Literal["omp", "imp", "synflow", "random"] = setting("omp", help="what is pruned by")
    sparsity: float = setting(0.95, help="share of the weights that become zero (s)", above=0,
                              at_most=0.999)  # fmt: skip
    place: Place = setting("both", help="which linears of a transformer's blocks are pruned")
    rounds: int = setting(100, quick=10, help="of pruning", at_least=1, when="score=synflow")
    recover_epochs: int = setting(
        10, quick=1, help="passes over all images after pruning, and of imp after each round",
        at_least=0,
    )  # fmt: skip
    learning_rate: float = setting(
        0.01, help="SGD's, of the recovery", above=0, when="recover_epochs"
    )
    batch_size: int = setting(
        256, help="images per step of the recovery", at_least=1, when="recover_epochs"
    )
    momentum: float = setting(
        0.9, help="SGD's, of the recovery", at_least=0, at_most=1, when="recover_epochs"
    )
    weight_decay: float = setting(
        5e-4, help="SGD's, of the recovery", at_least=0, when="recover_epochs"
    )
    then: str = setting("fine-tune", help="the method that forgets in what is left")
    then_settings: str = setting(
        "", quick=QUICK, help='its settings, as in "epochs=3,select=mlp"; quick for its --quick'
    )

    def __post_init__(self) -> None:
        check(self)
        why = REFUSED.get(self.then.replace("_", "-"))
        if why is not None:
            raise SettingError(f"Prune.then must be another method; of {self.then}, {why}.")
        check_following(self.then, self.then_settings, "Prune.then_settings")

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        names = prunable(model, self.place)
        follower = following(self.then, self.then_settings, model.folder, "Prune.then_settings")
        refuse_unsuited(type(follower), self.then, not request.classes)
        every = model.parameters()
        weights = {name: every[name] for name in names}
        if request.number == 0:
            model.remember(list(every))
            masks = self._pruned(model, weights, request, run)
        else:
            masks = staying(weights)
        with run.holding({weights[name]: mask for name, mask in masks.items()}):
            found = follower.forget(model, request, run)
        if found is not None:
            raise SettingError(f"Prune.then must change weights; {self.then} gives adapters.")
        put_zeros(weights, masks)

    def _pruned(
        self, model: Classifier, weights: dict[str, nn.Parameter], request: Request, run: Run
    ) -> dict[str, Tensor]:
        """Prune the weights in place and let them recover; the masks of what stays."""
        part, masks = request.forget.and_then(request.retain), dict[str, Tensor]()
        for number, share in enumerate(self.shares()):
            masks = self._masks(model, weights, share, run)
            put_zeros(weights, masks)
            if self.recover_epochs:
                held = {weights[name]: mask for name, mask in masks.items()}
                with run.holding(held), run.preparing():
                    self._recover(model, part, request, number, run)
        right = model.predict(part.images).argmax(1) == part.labels
        told = {"sparsity": sparsity_of(masks), "accuracy": float(right.float().mean())}
        run.log_end(f"{request.stage} pruned", 0, told)
        return masks

    def shares(self) -> list[float]:
        """The sparsity after each round of pruning."""
        count = ceil(log(1 - self.sparsity) / log(1 - ROUND)) if self.score == "imp" else 1
        return [1 - (1 - self.sparsity) ** (k / count) for k in range(1, count + 1)]

    def _masks(
        self, model: Classifier, weights: dict[str, nn.Parameter], share: float, run: Run
    ) -> dict[str, Tensor]:
        if self.score == "synflow":
            return synflow(model, list(weights), share, self.rounds, run)
        if self.score == "random":
            dice = run.generator_for("pruning")
            scores = {n: torch.rand(w.shape, generator=dice) for n, w in weights.items()}
            return largest_stay(scores, share)
        return largest_stay(weights, share)

    def _recover(
        self, model: Classifier, part: Labelled, request: Request, number: int, run: Run
    ) -> None:
        stage = f"{request.stage} recovery {number}"

        def loss(step: int) -> dict[str, Tensor]:
            x, right = labelled(model, part, self.batch_size, step, run, stage)
            return {"recovery": F.cross_entropy(model.forward(x)[1], right)}

        by = Optimiser("sgd", momentum=self.momentum, weight_decay=self.weight_decay, cosine=True)
        steps = request.steps(self.recover_epochs, self.batch_size, part)
        fit(
            Learner(loss, model.weights("all"), self.learning_rate, by), run=run, steps=steps,
            stage=stage,
        )  # fmt: skip


def prunable(model: Classifier, place: Place) -> list[str]:
    """The weights that may be pruned, by name; SettingError for a place that there is not."""
    if block_names(model) or place != "both":
        return [f"{name}.weight" for block in groups(model, place) for name in block]
    head = model.weights("head")
    modules = [
        f"{name}.weight"
        for name, module in model.network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    return [name for name in modules if name not in head]
