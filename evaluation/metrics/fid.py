"""FID and KID: how far a set of images lies from a reference, as a feature network sees them.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium"
(NeurIPS 2017), arXiv:1706.08500; Binkowski et al., "Demystifying MMD GANs" (ICLR 2018),
arXiv:1801.01401; in float64.

    FID = |mean - mean'|^2 + tr(C + C' - 2 (C C')^(1/2))
    KID = the squared MMD under k(x, y) = (x.y / d + 1)^3, of images of unlike prompts:
          mean k(x_i, x_j) + mean k(y_i, y_j) - 2 mean k(x_i, y_j), pairs i, j of two prompts

Values depend on the feature network, the number of images and the reference: all three belong in
the stamp. FID is biased upwards, the more so the fewer the images, and with no more images than
features its covariance is singular.

Choices: the published KID takes images for independent draws. Sets that hold every prompt once are
none: images of one prompt, which are alike, meet across the sets and never within, so that sets
drawn alike lie far below 0. Here the pairs of one prompt are left out everywhere. Each kind of pair
of prompts is then counted within as often as across, and the mean is 0 where both sets draw each
prompt alike, with one image per prompt as with several, whether or not both used the same noise.
With d_i the shift of prompt i's mean embedding, the mean is that of d_i.d_j over i != j: the
squared MMD between the mixtures over all prompts, less (mean |d_i|^2 - |mean d|^2) / (prompts - 1),
which is 0 if all move together and can leave a value below 0 if they move apart. The other way, to
count pairs of one prompt both within and across, has no such term but needs two images per prompt
in both sets, drawn from noise of their own: neither a part of a protocol nor the un-erased model's
images of the same noise have that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3

from classifiers.predict import Classifier
from erasure.errors import ModelError, SettingError
from evaluation.metrics.clip_score import TextImageModel
from evaluation.score import Score

GROUPS = 10
AT_ONCE = 1024  # images whose rows of the kernel matrix are held
Features = Float[Tensor, "_ d"]
Shared = Int[Tensor, "n k"]  # per image: its prompt's number, then others it has in common


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
        parts = [self._network(part.to(self._device)) for part in images.split(32)]
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


def kid(generated: Features, reference: Features, shared: Shared | None = None) -> float:
    """Squared MMD between two sets of features, (n, d) and (m, d); below 0 by chance if alike.

    With `shared`, as `distances` has it, of pairs that share nothing; SettingError without any.
    Without, as published: for images drawn independently.
    """
    if shared is None:
        own = [torch.arange(len(part))[:, None] for part in (generated, reference)]
        pairs = _Pairs.of(generated, reference, (own[0], own[1] + len(own[0])), 1)
    else:
        pairs = _Pairs.of(generated, reference, (shared, shared), 1)
    return pairs.kid(torch.ones(1, dtype=torch.bool))


@dataclass(frozen=True)
class _Pairs:
    """Sums of the kernel over pairs of images that share nothing, and these pairs' numbers.

    Of generated, of reference, and across: (3, groups, groups), by the groups of the prompts.
    """

    sums: Float[Tensor, "3 g g"]
    counts: Float[Tensor, "3 g g"]

    @classmethod
    def of(
        cls, generated: Features, reference: Features, shared: tuple[Shared, Shared], groups: int
    ) -> "_Pairs":
        sides = [
            (part.double(), own, F.one_hot(own[:, 0] % groups, groups).double())
            for part, own in zip((generated, reference), shared, strict=True)
        ]
        sums, counts = torch.zeros(2, 3, groups, groups, dtype=torch.float64)
        for place, (first, second) in enumerate(((0, 0), (1, 1), (0, 1))):
            others, theirs, columns = sides[second]
            rows = zip(*(part.split(AT_ONCE) for part in sides[first]), strict=True)
            for some, own, lines in rows:
                unlike = (own[:, None] != theirs[None]).all(-1).double()
                kernel = (some @ others.T / some.shape[1] + 1) ** 3
                sums[place] += lines.T @ (kernel * unlike) @ columns
                counts[place] += lines.T @ unlike @ columns
        return cls(sums, counts)

    def has(self, groups: Bool[Tensor, " g"]) -> bool:
        """Whether these groups' images make pairs of every sort."""
        return bool(self.counts[:, groups][:, :, groups].sum((1, 2)).all())

    def kid(self, groups: Bool[Tensor, " g"]) -> float:
        """Of these groups' images; SettingError without pairs."""
        if not self.has(groups):
            raise SettingError("KID must be of images of two prompts or more.")
        parts = (part[:, groups][:, :, groups].sum((1, 2)) for part in (self.sums, self.counts))
        within, beside, across = (total / count for total, count in zip(*parts, strict=True))
        return float(within + beside - 2 * across)


def distances(
    generated: Features, reference: Features, shared: Shared, *, groups: int = GROUPS
) -> dict[str, Score]:
    """FID and KID with standard errors; either is left out where too few images allow none.

    Both sets are of the same prompts in the same order. `shared` numbers each image's prompt in its
    first column; further ones number what else images have in common, and KID is over pairs that
    share nothing. The standard errors are the jackknife's: every one of `groups` interleaved parts
    of the prompts is left out in turn, of both sets. Too few for KID means: no more prompts than
    groups; for FID: no more images than features once a part is out.
    """
    prompts = shared[:, 0].unique(return_inverse=True)[1]
    part, every, found = prompts % groups, torch.arange(groups), dict[str, Score]()
    if len(part) - int(part.bincount().max()) > generated.shape[1]:
        again = [fid(generated[part != g], reference[part != g]) for g in range(groups)]
        found["FID"] = _with_spread(fid(generated, reference), again, len(part))
    numbered = torch.cat([prompts[:, None], shared[:, 1:]], 1)
    pairs = _Pairs.of(generated, reference, (numbered, numbered), groups)
    if int(prompts.max()) >= groups and all(pairs.has(every != g) for g in range(groups)):
        again = [pairs.kid(every != g) for g in range(groups)]
        found["KID"] = _with_spread(pairs.kid(every >= 0), again, len(part))
    return found


def _with_spread(value: float, again: Sequence[float], count: int) -> Score:
    """A distance with the jackknife's standard error; `again` has it without each part."""
    spread = ((len(again) - 1) * torch.tensor(again).double().var(correction=0)) ** 0.5
    return Score(value, float(spread), count, higher_is_better=False)
