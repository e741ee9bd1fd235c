"""LAF: forget without labels, by what the features of the kept and of the forgotten are like.

Changes: all weights but the head's; the head's too with --repair-labels.

Shen, Qiu, Wu, Zhang, "Label-Agnostic Forgetting: A Supervision-Free Unlearning in Deep Models"
(ICLR 2024), https://arxiv.org/abs/2404.00506. e are features, e_0 those of the model before the
request; h_s and h_u are autoencoders of e_0 of what is kept and what is forgotten, trained first:

    m       mean over d of (h(e) - e)^2,  d = 1 - cos(e, e_0)
    loss 1  mean over kept of exp(m_s / (m_s + 1)) - mean over forgotten of exp(m_u / (m_u + 1))
    loss 2  mean over kept of d - log sum over forgotten of exp(d / tau)

An Adam step down each in turn. With `repair_labels`, LAF+R: cross-entropy on the head then, with
so many labelled images of each kept class.

Choices
- Features are standardised by those of e_0, h ends without the authors' sigmoid (features have no
  bounds), and m is a mean: their sum takes exp(m / (m + 1)) to where it has no slope.
- h_s learns from what is kept; with `published`, from all images, as in the authors' code.
- Losses are means, theirs are sums; noise is drawn for training h alone, not when it is asked.
- A pass is one over what is kept; theirs ends with the shorter of the two.
- The divergence of h weighs against a mean over features, too, so that their 0.025 means the same.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from erasure.config import check, setting
from erasure.errors import SettingError
from erasure.forgetting import Request
from erasure.methods.shared.feature_vae import FeatureVAE, learn_features
from erasure.models.classifier.classifier import Classifier
from erasure.registry import METHODS
from erasure.training.batches import labelled, picked
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.run import Run


@METHODS.register
@dataclass(frozen=True)
class LAF:
    """Label-agnostic forgetting."""

    epochs: int = setting(40, quick=2, help="passes over the images to keep", at_least=1)
    extraction_rate: float = setting(1e-5, help="Adam's, down loss 1", above=0)
    alignment_rate: float = setting(5e-5, help="Adam's, down loss 2", above=0)
    batch_size: int = setting(32, help="images to keep per step, and as many to forget", at_least=1)
    temperature: float = setting(20.0, help="of the forgotten in loss 2 (tau)", above=0)
    vae_epochs: int = setting(10, quick=2, help="passes in which h is trained", at_least=1)
    vae_rate: float = setting(1e-3, help="Adam's, of h", above=0)
    vae_code: int = setting(16, help="size of the code of h", at_least=1)
    vae_divergence: float = setting(0.025, help="weight of the code's divergence", at_least=0)
    published: bool = setting(False, help="h_s learns from all images, as in the authors' code")
    repair_labels: int = setting(
        0, help="labelled images of each kept class to repair the head with; 0: no repair",
        at_least=0,
    )  # fmt: skip
    repair_epochs: int = setting(
        20, quick=2, help="passes over them", at_least=1, when="repair_labels"
    )
    repair_rate: float = setting(1e-3, help="Adam's, of the repair", above=0, when="repair_labels")
    select: str = setting("all", help="which weights: all, mlp, attention, or a pattern")

    def __post_init__(self) -> None:
        check(self)

    def forget(self, model: Classifier, request: Request, run: Run) -> None:
        head = model.weights("head")
        weights = {n: w for n, w in model.weights(self.select).items() if n not in head}
        if not weights:
            raise SettingError(
                "LAF.select must match weights outside of the head, which make its features; "
                f"{self.select!r} matched none."
            )
        known = {
            "kept": model.features(request.retain.images).to(model.device),
            "forgotten": model.features(request.forget.images).to(model.device),
        }
        model.remember([*weights, *(head if self.repair_labels else {})])
        self._move_features(model, request, run, weights, known)
        if self.repair_labels:
            self._repair(model, request, run, head)

    def _move_features(
        self, model: Classifier, request: Request, run: Run, weights: dict[str, nn.Parameter],
        known: dict[str, Tensor],
    ) -> None:  # fmt: skip
        """Take both kinds of Adam's steps; `known` are the features before."""
        every = torch.cat([*known.values()])
        mean, deviation = every.mean(0), every.std(0).clamp(min=1e-6)

        def standard(features: Tensor) -> Tensor:
            return (features - mean) / deviation

        like_kept = every if self.published else known["kept"]
        kept = self._autoencoder(standard(like_kept), request, run, "kept")
        forgotten = self._autoencoder(standard(known["forgotten"]), request, run, "forgotten")

        def features(step: int) -> tuple[list[Tensor], list[Tensor]]:
            """([of what is kept, of what is to be forgotten] now, the same before)."""
            pictures, before = [], []
            for name, part in (("kept", request.retain), ("forgotten", request.forget)):
                chosen = picked(
                    len(part), self.batch_size, step, run, f"{request.stage} {name} features"
                )
                pictures.append(model.prepare(part.images[chosen]))
                before.append(known[name][chosen.to(model.device)])
            now = model.forward(torch.cat(pictures))[0]
            return [*now.split(len(pictures[0]))], before

        def extraction(step: int) -> dict[str, Tensor]:
            (e_r, e_f), _ = features(step)
            return {
                "kept": bounded(kept.error(standard(e_r))).mean(),
                "forgotten": -bounded(forgotten.error(standard(e_f))).mean(),
            }

        def alignment(step: int) -> dict[str, Tensor]:
            (e_r, e_f), (before_r, before_f) = features(step)
            away = apart(e_f, before_f) / self.temperature
            return {"near": apart(e_r, before_r).mean(), "away": -away.logsumexp(0)}

        fit(
            {
                "extraction": Learner(extraction, weights, self.extraction_rate),
                "alignment": Learner(alignment, weights, self.alignment_rate),
            },
            steps=request.steps(self.epochs, self.batch_size, request.retain), run=run,
            stage=request.stage,
        )  # fmt: skip

    def _autoencoder(
        self, features: Float[Tensor, "n d"], request: Request, run: Run, name: str
    ) -> FeatureVAE:
        stage, size = f"{request.stage} {name} autoencoder", features.shape[1]
        vae = run.module(stage, lambda: FeatureVAE(size, self.vae_code))
        learn_features(
            vae, features, run, stage=stage, epochs=self.vae_epochs, batch_size=self.batch_size,
            rate=self.vae_rate, divergence_weight=self.vae_divergence,
        )  # fmt: skip
        return vae

    def _repair(
        self, model: Classifier, request: Request, run: Run, head: dict[str, nn.Parameter]
    ) -> None:
        few, stage = request.retain.of(request.kept, self.repair_labels), f"{request.stage} repair"

        def loss(step: int) -> dict[str, Tensor]:
            x, right = labelled(model, few, self.batch_size, step, run, stage)
            return {"repair": F.cross_entropy(model.forward(x)[1], right)}

        steps = request.steps(self.repair_epochs, self.batch_size, few)
        fit(Learner(loss, head, self.repair_rate), steps=steps, run=run, stage=stage)


def bounded(error: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """exp(m / (m + 1)), in [1, e)."""
    return (error / (error + 1)).exp()


def apart(now: Float[Tensor, "b d"], before: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """1 - cos of each pair, in [0, 2]."""
    return 1 - F.cosine_similarity(now, before, dim=1)
