"""UnlearnCanvas' kept images beside their labels: CLIP score, FID and KID, and how far they moved.

All are over the images whose prompt names no target, read from the answer set's files.

    CLIP        cosine between an image and its prompt
    FID, KID    to the data set's images 1 to 5 of the same pairs, one per seed, as published; where
                no data set is named, to the un-erased model's images of the same noise
    perceptual  distance of each image to the un-erased model's (evaluation/metrics/perceptual.py)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from erasure.errors import SettingError
from erasure.models.classifier.classifier import Classifier
from erasure_datasets.images import read_image
from erasure_datasets.unlearncanvas import OBJECTS, THEMES, UnlearnCanvas
from evaluation.metrics.clip_score import NamedClip, TextImageModel, clip_scores
from evaluation.metrics.fid import (
    ClipFeatures,
    FeatureNetwork,
    Features,
    InceptionFeatures,
    JudgeFeatures,
    distances,
)
from evaluation.metrics.perceptual import lpips, perceptual_distance
from evaluation.score import Score, mean
from evaluation.unlearncanvas.plan import SEEDS, Key, shots
from evaluation.unlearncanvas.settings import UnlearnCanvasSettings

AT_ONCE = 16  # images whose layers are held at once
Images = UInt8[Tensor, "n 3 h w"]
Distance = Callable[[Images, Images], Float[Tensor, " n"]]


@dataclass(frozen=True)
class Eyes:
    """The networks that look at images, the data set to compare with, and the stamp's words."""

    clip: TextImageModel | None
    features: FeatureNetwork
    distance: Distance
    data: Callable[[Key], UInt8[Tensor, "3 h w"]] | None
    stamp: dict[str, str]

    @classmethod
    def open(
        cls, settings: UnlearnCanvasSettings, judge: Classifier, side: int, keys: Sequence[Key]
    ) -> "Eyes":
        """What the settings name, to look at images of `keys` that are `side` pixels square.

        SettingError or ModelError for what is not there.
        """
        device = judge.device
        clip = NamedClip(settings.clip) if settings.clip else None
        if clip is not None:
            clip.model.to(device)
        if clip is None and "clip" in (settings.features, settings.perceptual):
            raise SettingError(
                "features=clip and perceptual=clip need clip=NAME:PRETRAINED, or clip=FOLDER."
            )
        data = _data(settings.data, side, keys) if settings.data else None
        features = _features(settings.features, judge, clip, device)
        stamp = {
            "clip": settings.clip or "none",
            "features": features.name,
            "KID": "pairs of unlike seeds",
            "perceptual": settings.perceptual,
            "reference": "the data set's images 1 to 5" if data else "the un-erased model's images",
        }
        return cls(clip, features, _distance(settings.perceptual, judge, clip), data, stamp)


def _features(
    name: str, judge: Classifier, clip: TextImageModel | None, device: torch.device
) -> FeatureNetwork:
    if name == "inception":
        return InceptionFeatures(device)
    return ClipFeatures(clip) if name == "clip" and clip else JudgeFeatures(judge)


def _distance(name: str, judge: Classifier, clip: TextImageModel | None) -> Distance:
    if name == "lpips":
        return lpips
    layers = clip.layers if name == "clip" and clip else partial(_layers, judge)
    return lambda a, b: perceptual_distance(layers(a), layers(b))


@torch.no_grad()
def _layers(judge: Classifier, images: Images) -> list[Float[Tensor, "n _ _ _"]]:
    """What each stage of a timm judge sees in whole images, (n, c, h, w) each."""
    network: Any = judge.network
    return network.forward_intermediates(judge.prepare(judge.cut(images)), intermediates_only=True)


def _data(source: str, side: int, keys: Sequence[Key]) -> Callable[[Key], UInt8[Tensor, "3 h w"]]:
    """The data set's image of a pair for each seed: its first for the first seed, and so on."""
    themes = sorted({place // len(OBJECTS) for _, place in keys})
    numbers = 1 + max(SEEDS.index(seed) for seed, _ in keys)
    names = tuple(THEMES[theme] for theme in themes)
    try:
        images = UnlearnCanvas(source, "train", numbers, size=side, themes=names)
    except (ValueError, OSError) as error:
        raise SettingError(f"data: {error}.") from error

    def image(key: Key) -> UInt8[Tensor, "3 h w"]:
        theme, name = divmod(key[1], len(OBJECTS))
        row = SEEDS.index(key[0]) * len(OBJECTS) + name
        return images[row * len(themes) + themes.index(theme)][0]

    return image


@dataclass
class _Seen:
    """What the eyes see of one set of images, part by part."""

    eyes: Eyes
    features: list[Float[Tensor, "n d"]] = field(default_factory=list)
    cosines: list[Float[Tensor, " n"]] = field(default_factory=list)

    def look(self, images: Images, prompts: Sequence[str]) -> None:
        self.features.append(self.eyes.features(images).cpu())
        if self.eyes.clip is not None:
            self.cosines.append(clip_scores(self.eyes.clip, images, prompts).cpu())

    @property
    def scores(self) -> dict[str, Score]:
        return {"CLIP": mean(torch.cat(self.cosines), least=-1, most=1)} if self.cosines else {}


def quality(
    eyes: Eyes, kept: Sequence[Key], files: Sequence[Path], before: Sequence[Path] | None
) -> tuple[dict[str, Score], dict[str, Score]]:
    """(scores, the un-erased model's) of the images of these keys, in files of the same order.

    `before` are the un-erased model's files, where there are any. Each file is read once. No scores
    where nothing is kept.
    """
    if not kept:
        return {}, {}
    prompts = [shot.prompt for shot in shots(kept)]
    drawn, known, wanted, moved = _Seen(eyes), _Seen(eyes), list[Features](), list[Tensor]()
    for start in range(0, len(kept), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        images = torch.stack([read_image(file) for file in files[part]])
        drawn.look(images, prompts[part])
        if before is not None:
            unerased = torch.stack([read_image(file) for file in before[part]])
            known.look(unerased, prompts[part])
            moved.append(eyes.distance(images, unerased).cpu())
        if eyes.data is not None:
            same = torch.stack([eyes.data(key) for key in kept[part]])
            wanted.append(eyes.features(same).cpu())
    scores, baseline = drawn.scores, known.scores
    if moved:
        scores["perceptual"] = replace(mean(torch.cat(moved), least=0), higher_is_better=False)
    seeds, numbers = torch.tensor([*kept]).T
    seen = torch.cat(drawn.features)
    if wanted:
        scores |= distances(seen, torch.cat(wanted), numbers, seeds)
        if before is not None:
            baseline |= distances(torch.cat(known.features), torch.cat(wanted), numbers, seeds)
    elif before is not None:
        scores |= distances(seen, torch.cat(known.features), numbers, seeds)
    return scores, baseline
