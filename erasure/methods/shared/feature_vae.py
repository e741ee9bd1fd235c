"""A variational autoencoder of a classifier's features: which of them are like what it has seen."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from erasure.training.batches import picked
from erasure.training.fit import fit
from erasure.training.learner import Learner
from erasure.training.run import Run

WIDTHS = (256, 128, 32)


class FeatureVAE(nn.Module):
    """d features to a Gaussian code and back, through layers of 256, 128 and 32."""

    def __init__(self, features: int, code: int) -> None:
        super().__init__()
        widths = [features, *WIDTHS]
        self.encoder = nn.Sequential(*_layers(widths), nn.Linear(widths[-1], 2 * code))
        self.decoder = nn.Sequential(
            *_layers([code, *widths[:0:-1]]), nn.Linear(widths[1], features)
        )
        self.code = code

    def forward(
        self, features: Float[Tensor, "b d"], noise: Float[Tensor, "b z"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, " b"]]:
        """(the features again, from a code drawn with this noise; its divergence from N(0, 1))."""
        mean, log_variance = self.encoder(features).chunk(2, 1)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
        return self.decoder(mean + (log_variance / 2).exp() * noise), divergence

    def error(self, features: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        """m: the squared error of each image's features, a mean over them, without any noise."""
        mean = self.encoder(features).chunk(2, 1)[0]
        return (self.decoder(mean) - features).square().mean(1)


def learn_features(
    vae: FeatureVAE, features: Float[Tensor, "n d"], run: Run, *, stage: str, epochs: int,
    batch_size: int, rate: float, divergence_weight: float,
) -> None:  # fmt: skip
    """Train a VAE with Adam on features, which lie on the run's device."""

    def loss(step: int) -> dict[str, Tensor]:
        chosen = features[picked(len(features), batch_size, step, run, stage).to(features.device)]
        whole = torch.randn(run.whole(len(chosen)), vae.code, generator=run.generator)
        again, divergence = vae(chosen, run.shard(whole))
        return {
            "reconstruction": (again - chosen).square().mean(),
            "divergence": divergence_weight * divergence.mean() / chosen.shape[1],
        }

    steps = epochs * -(-len(features) // batch_size)
    with run.preparing():
        fit(Learner(loss, dict(vae.named_parameters()), rate), steps=steps, run=run, stage=stage)


def _layers(widths: list[int]) -> list[nn.Module]:
    return [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
