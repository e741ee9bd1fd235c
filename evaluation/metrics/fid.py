"""FID and KID: how far a set of images lies from a reference, as a feature network sees them.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium"
(NeurIPS 2017), arXiv:1706.08500; Binkowski et al., "Demystifying MMD GANs" (ICLR 2018),
arXiv:1801.01401; in float64.

    FID = |mean - mean'|^2 + tr(C + C' - 2 (C C')^(1/2))
    KID = the squared MMD under k(x, y) = (x.y / d + 1)^3, of images of unlike seeds:
          mean k(x, x') + mean k(y, y') - 2 mean k(x, y), pairs of two seeds, prompts all with all

Values depend on the feature network, the number of images and the reference: all three belong in
the stamp. FID is biased upwards, the more so the fewer the images, and with no more images than
features its covariance is singular.

Choices: the published KID takes images for independent draws. Sets that hold every prompt once are
none: images of one prompt, which are alike, meet across the sets and never within, so that sets
drawn alike lie far below 0. Here both sets have every prompt under the same seeds, and only pairs
of two seeds count: pairs of one prompt then have the same share within as across. The mean is the
squared MMD between the mixtures over all prompts, 0 where both draw each prompt alike. What images
of one seed share cannot enter: the noise of a model before and after, or the one picture behind an
object's images in every style. It needs two seeds and is left out of a part that has one. To leave
out pairs of one prompt instead would do with one seed, but falls below 0 by the prompts' mean shift
over their number where each moves another way: a model that mixes up its prompts would look best.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3

from erasure.errors import ModelError, SettingError
from erasure.models.classifier.classifier import Classifier
from erasure.training.progress import shown
from evaluation.metrics.clip_score import TextImageModel
from evaluation.score import Score

GROUPS = 10
AT_ONCE = 1024  # images whose rows of the kernel matrix are held
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
    """What a classifier sees before its head."""

    judge: Classifier

    @property
    def name(self) -> str:
        return f"{Path(self.judge.name).name} before its head"

    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        return self.judge.features(self.judge.cut(images))


class InceptionFeatures:
    """The 2048 features of the FID paper's Inception v3, as torch-fidelity ships it, on `device`.

    Its weights are fetched once by torch-fidelity. ModelError without the package or the weights.
    """

    name = "Inception v3 (torch-fidelity) 2048"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = device
        try:
            self._network = NoTrainInceptionV3("inception-v3-compat", ["2048"]).to(device)
        except (ImportError, OSError) as error:  # URLError is an OSError
            first = str(error).strip().splitlines()[0]
            raise ModelError(
                "Inception features need `pip install erasure-toolkit[inception]` and its weights "
                f"({first}); a judge's or a CLIP's features need neither."
            ) from error

    @torch.no_grad()
    def __call__(self, images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2048"]:
        batches = shown(images.split(32), "looking at images")
        parts = [self._network(part.to(self._device)) for part in batches]
        return torch.cat(parts).cpu()


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


def kid(generated: Features, reference: Features, seeds: Int[Tensor, " n"] | None = None) -> float:
    """Squared MMD between two sets of features, (n, d) and (m, d); below 0 by chance if alike.

    With the images' `seeds`, the same in both sets, of pairs of two seeds; SettingError if there is
    but one. Without, as published: for images drawn independently.
    """
    if seeds is None:
        own = torch.arange(len(generated)), torch.arange(len(reference)) + len(generated)
    else:
        own = seeds, seeds
    groups = [torch.zeros_like(part) for part in own]
    pairs = _Pairs.of((generated, reference), own, (groups[0], groups[1]), 1)
    return pairs.kid(torch.ones(1, dtype=torch.bool))


Two = tuple[Int[Tensor, " n"], Int[Tensor, " m"]]  # of the generated and of the reference images


@dataclass(frozen=True)
class _Pairs:
    """Sums of the kernel over pairs of images of unlike seeds, and these pairs' numbers.

    Of generated, of reference, and across: (3, g, g), by the groups that the images are in.
    """

    sums: Float[Tensor, "3 g g"]
    counts: Float[Tensor, "3 g g"]

    @classmethod
    def of(cls, images: tuple[Features, Features], seeds: Two, groups: Two, count: int) -> "_Pairs":
        sides = [
            (part.double(), own, F.one_hot(group, count).double())
            for part, own, group in zip(images, seeds, groups, strict=True)
        ]
        sums, counts = torch.zeros(2, 3, count, count, dtype=torch.float64)
        for index, (first, second) in enumerate(((0, 0), (1, 1), (0, 1))):
            others, theirs, columns = sides[second]
            rows = zip(*(part.split(AT_ONCE) for part in sides[first]), strict=True)
            for some, own, lines in rows:
                unlike = (own[:, None] != theirs[None]).double()
                kernel = (some @ others.T / some.shape[1] + 1) ** 3
                sums[index] += lines.T @ (kernel * unlike) @ columns
                counts[index] += lines.T @ unlike @ columns
        return cls(sums, counts)

    def kid(self, groups: Bool[Tensor, " g"]) -> float:
        """Of the images in these groups; SettingError without pairs."""
        parts = [part[:, groups][:, :, groups].sum((1, 2)) for part in (self.sums, self.counts)]
        if not parts[1].all():
            raise SettingError("KID must be of images of two seeds or more.")
        within, beside, across = parts[0] / parts[1]
        return float(within + beside - 2 * across)


def distances(
    generated: Features, reference: Features, prompts: Int[Tensor, " n"],
    seeds: Int[Tensor, " n"], *, groups: int = GROUPS,
) -> dict[str, Score]:  # fmt: skip
    """FID and KID with standard errors; either is left out where too few images allow none.

    Both sets are of the same prompts and seeds in the same order. The standard errors are the
    jackknife's: every one of `groups` interleaved parts of the prompts is left out in turn, of both
    sets. FID needs more images than features once a part is out; KID needs more prompts than
    groups, and two seeds under which every prompt is there.
    """
    places = prompts.unique(return_inverse=True)[1]
    part, every, found = places % groups, torch.arange(groups), dict[str, Score]()
    if len(part) - int(part.bincount().max()) > generated.shape[1]:
        again = [fid(generated[part != g], reference[part != g]) for g in range(groups)]
        found["FID"] = _with_spread(fid(generated, reference), again, len(part))
    if int(places.max()) >= groups and is_crossed(prompts, seeds):
        pairs = _Pairs.of((generated, reference), (seeds, seeds), (part, part), groups)
        again = [pairs.kid(every != g) for g in range(groups)]
        found["KID"] = _with_spread(pairs.kid(every >= 0), again, len(part))
    return found


def is_crossed(prompts: Int[Tensor, " n"], seeds: Int[Tensor, " n"]) -> bool:
    """Whether every prompt is there once under each of two seeds or more."""
    count = len(seeds.unique())
    pairs = torch.stack([prompts, seeds]).unique(dim=1).shape[1]
    return count > 1 and pairs == len(prompts) == count * len(prompts.unique())


def _with_spread(value: float, again: Sequence[float], count: int) -> Score:
    """A distance with the jackknife's standard error; `again` has it without each part."""
    spread = ((len(again) - 1) * torch.tensor(again).double().var(correction=0)) ** 0.5
    return Score(value, float(spread), count, higher_is_better=False)
