"""FID and KID: how far a set of images lies from a reference, as a feature network sees them.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium"
(NeurIPS 2017), arXiv:1706.08500; Binkowski et al., "Demystifying MMD GANs" (ICLR 2018),
arXiv:1801.01401; both as torchmetrics computes them, in float64.

    FID = |mean - mean'|^2 + tr(C + C' - 2 (C C')^(1/2))
    KID = the unbiased squared MMD under the kernel (x.y / d + 1)^3

Values depend on the feature network, the number of images and the reference: all three belong in
the stamp. FID is biased upwards, the more so the fewer the images, and with no more images than
features its covariance is singular. KID is unbiased for independent draws; sets that hold every
prompt once lie below 0 if alike, because like prompts then meet only across the sets.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchmetrics.image.kid import KernelInceptionDistance

from classifiers.predict import Classifier
from erasure.errors import ModelError, SettingError
from evaluation.metrics.clip_score import TextImageModel
from evaluation.score import Score

GROUPS = 10
LARGEST = 5000  # images whose kernel matrix is held at once
Features = Float[Tensor, "_ d"]


class FeatureNetwork(Protocol):
    """One vector per image, uint8 in [0, 255], (n, 3, h, w)."""

    @property
    def name(self) -> str: ...

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]: ...


@dataclass(frozen=True)
class ClipFeatures:
    """A CLIP's unit image embeddings times sqrt(d): numbers of order one, as KID's kernel wants."""

    clip: TextImageModel

    @property
    def name(self) -> str:
        return f"{self.clip.name} image embeddings x sqrt(d)"

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        seen = self.clip.embed_images(images)
        return seen * seen.shape[1] ** 0.5


@dataclass(frozen=True)
class JudgeFeatures:
    """What a timm classifier sees before its head."""

    judge: Classifier

    @property
    def name(self) -> str:
        return f"{self.judge.name} before its head"

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        return self.judge.features(images)


class InceptionFeatures:
    """The 2048 features of the FID paper's Inception v3, as torch-fidelity ships it.

    Its weights are fetched once by torch-fidelity. ModelError without the package or the weights.
    """

    name = "Inception v3 (torch-fidelity) 2048"

    def __init__(self) -> None:
        try:
            self._network = NoTrainInceptionV3("inception-v3-compat", ["2048"])
        except (ImportError, OSError) as error:  # URLError is an OSError
            first = str(error).strip().splitlines()[0]
            raise ModelError(
                "Inception features need `pip install erasure-toolkit[inception]` and its weights "
                f"({first}); a judge's or a CLIP's features need neither."
            ) from error

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2048"]:
        return torch.cat([self._network(part) for part in images.split(32)])


def fid(generated: Features, reference: Features) -> float:
    """Fréchet distance between two sets of features, (n, d) and (m, d).

    SettingError unless both hold more images than features.
    """
    features = generated.shape[1]
    if min(len(generated), len(reference)) <= features:
        raise SettingError(
            f"FID over {features} features needs more than {features} images on both sides; "
            f"got {len(generated)} and {len(reference)}."
        )
    metric = FrechetInceptionDistance(
        nn.Identity(), normalize=True, input_img_size=(1, 1, features)
    )
    metric.update(reference.double(), real=True)
    metric.update(generated.double(), real=False)
    return float(metric.compute())


def kid(generated: Features, reference: Features) -> float:
    """Squared MMD between two sets of features, (n, d) and (m, d); below 0 by chance if alike.

    Over all images where both sides are equally many and at most 5,000, else the mean over 100
    random thousands (or as many as there are), drawn with a fixed seed.
    """
    whole = len(generated) == len(reference) <= LARGEST
    size = len(generated) if whole else min(len(generated), len(reference), 1000)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # that it keeps all features: so we hand them over
        torch.manual_seed(0)
        metric = KernelInceptionDistance(
            nn.Identity(), subsets=1 if whole else 100, subset_size=size
        )
        metric.update(reference.double(), real=True)
        metric.update(generated.double(), real=False)
        return float(metric.compute()[0])


def distances(
    generated: Features, reference: Features, *, groups: int = GROUPS
) -> dict[str, Score]:
    """FID and KID with standard errors; FID is left out where too few images allow none.

    The standard errors are the jackknife's: every one of `groups` interleaved parts is left out in
    turn, of both sets, at the cost of one more distance each. Sets in the same order (of prompts)
    stay alike that way. Too few for FID means: no more images than features once a part is out.
    """
    count = min(len(generated), len(reference))
    found = {"KID": _with_spread(kid, generated, reference, groups)} if count > groups else {}
    if count - -(-count // groups) > generated.shape[1]:
        found = {"FID": _with_spread(fid, generated, reference, groups), **found}
    return found


def _with_spread(
    distance: Callable[[Features, Features], float],
    generated: Features,
    reference: Features,
    groups: int,
) -> Score:
    def without(part: Features, group: int) -> Features:
        return part[torch.arange(len(part)) % groups != group]

    again = torch.tensor(
        [distance(without(generated, g), without(reference, g)) for g in range(groups)]
    )
    spread = ((groups - 1) * again.var(correction=0)) ** 0.5
    return Score(
        distance(generated, reference), float(spread), len(generated), higher_is_better=False
    )
