"""Pictures with and without a concept: of a folder, of Pocket Canvas, or found in the data."""

import warnings
from pathlib import Path

import torch
from jaxtyping import Float
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from erasure.errors import SettingError
from erasure.methods.shared.concept_bottleneck import Pair
from erasure.models.classifier.blocks import at_places, block_names, width_of
from erasure.models.classifier.classifier import Classifier
from erasure.training.run import Run
from erasure_datasets.canvas import STYLES
from erasure_datasets.classes import load_classes
from erasure_datasets.errors import DataError
from erasure_datasets.labelled import Labelled

PATCHES = 20_000  # of which clusters are found


def pictured(model: Classifier, source: str, count: int, run: Run) -> dict[str, Pair]:
    """Features of `count` pictures with each concept, and of as many with others.

    `source` is "canvas", whose concepts are its styles, or a folder CONCEPT/*.png. SettingError for
    a folder of less than two concepts.
    """
    place = Path(source).expanduser()
    if source == "canvas":
        names = STYLES
    elif place.is_dir():
        base = place / "train" if (place / "train").is_dir() else place
        names = tuple(sorted(p.name for p in base.iterdir() if p.is_dir() and p.name[0] != "."))
    else:
        raise SettingError(f"concepts must be clusters, canvas or a folder; got {source!r}.")
    if len(names) < 2:
        raise SettingError(f"concepts must be at least two, each a folder in {source}.")
    try:
        part = load_classes(
            source if source == "canvas" else str(place), "train", names, size=model.transform.size,
            per_class=count, prepare=model.transform.cut,
        )  # fmt: skip
    except DataError as error:
        raise SettingError(f"concepts: {error}") from error
    features, pairs = model.features(part.images), dict[str, Pair]()
    for number, name in enumerate(names):
        others = torch.nonzero(part.labels != number).flatten()
        dice = torch.randperm(len(others), generator=run.generator_for(f"concept {name}"))
        pairs[name] = features[part.labels == number], features[others[dice[:count]]]
    return pairs


def clustered(
    model: Classifier, part: Labelled, concepts: int, count: int, run: Run
) -> dict[str, Pair]:
    """As `pictured`, of concepts that are clusters of the images' patches, in the last block.

    With a concept are the `count` images with most patches of it, without it those with fewest.
    """
    patches = patch_features(model, part)
    flat = patches.flatten(0, 1)
    near = torch.cdist(flat, cluster_centres(flat, concepts, run)).argmin(1)
    shares = torch.stack([(near == k).view(len(part), -1).float().mean(1) for k in range(concepts)])
    features, pairs = model.features(part.images), dict[str, Pair]()
    count = min(count, len(part) // 2)
    for number, share in enumerate(shares):
        if not share.any():
            continue
        order = share.argsort(descending=True, stable=True)
        pairs[f"cluster {number}"] = features[order[:count]], features[order[-count:]]
    return pairs


def cluster_centres(
    patches: Float[Tensor, "n d"], count: int, run: Run
) -> Float[Tensor, "count d"]:
    """The centres of so many clusters, by k-means from patches; one that empties stays there."""
    dice = torch.randperm(len(patches), generator=run.generator_for("clusters"))[:PATCHES]
    points = patches[dice].double().numpy()
    if len(points) < count:
        raise SettingError(
            f"there must be a patch for each of {count} clusters; {len(points)} are."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of clusters that empty
        centres, _ = kmeans2(points, points[:count], minit="matrix")
    return torch.from_numpy(centres).float()


@torch.no_grad()
def patch_features(
    model: Classifier, part: Labelled, batch_size: int = 128
) -> Float[Tensor, "n places d"]:
    """What the last block says at each place of each image, or the last map of a network.

    SettingError for a network that says nothing of places.
    """
    names, seen = block_names(model), list[Tensor]()
    width = width_of(model, names[-1]) if names else 0
    modules = [model.module(names[-1])] if names else [*model.network.modules()]

    def note(_module: nn.Module, _given: tuple[Tensor, ...], said: object) -> None:
        if names or (isinstance(said, Tensor) and said.ndim == 4 and said[0, 0].numel() > 1):
            seen.append(at_places(said, width))  # type: ignore[arg-type]

    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        parts = []
        for images in part.images.split(batch_size):
            seen.clear()
            model.forward(model.prepare(images))
            parts += [found.float().cpu() for found in seen[-1:]]
    finally:
        for hook in hooks:
            hook.remove()
    if not parts:
        raise SettingError(
            f"concepts must be canvas or a folder for {model.name}, which has no map of places."
        )
    return torch.cat(parts)
