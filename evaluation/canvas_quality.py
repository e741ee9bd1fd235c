"""UnlearnCanvas' kept images beside their labels: CLIP score, FID and KID, and how far they moved.

All are over the images whose prompt names no target, read from the answer set's files.

    CLIP        cosine between an image and its prompt
    FID, KID    to the data set's images 1 to 5 of the same pairs, one per seed, as published; where
                no data set is named, to the un-erased model's images of the same noise
    perceptual  distance of each image to the un-erased model's (evaluation/metrics/perceptual.py)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from classifiers.predict import Classifier
from erasure.errors import SettingError
from erasure_datasets.images import read_image
from erasure_datasets.unlearncanvas import OBJECTS, THEMES, UnlearnCanvas
from evaluation.canvas_plan import SEEDS, Key, shots
from evaluation.metrics.clip_score import NamedClip, TextImageModel, clip_scores
from evaluation.metrics.fid import (
    ClipFeatures,
    FeatureNetwork,
    InceptionFeatures,
    JudgeFeatures,
    distances,
)
from evaluation.metrics.perceptual import lpips, perceptual_distance
from evaluation.protocol_settings import UnlearnCanvasSettings
from evaluation.score import Score, mean

AT_ONCE = 16  # images whose layers are held at once
Images = UInt8[Tensor, "n 3 h w"]
Distance = Callable[[Images, Images], Float[Tensor, " n"]]
Reader = Callable[[int], UInt8[Tensor, "3 h w"]]  # the image of a place in the list of kept ones


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
        clip = NamedClip(settings.clip) if settings.clip else None
        if clip is None and "clip" in (settings.features, settings.perceptual):
            raise SettingError(
                "features=clip and perceptual=clip need clip=NAME:PRETRAINED, or clip=FOLDER."
            )
        data = _data(settings.data, side, keys) if settings.data else None
        features = _features(settings.features, judge, clip)
        stamp = {
            "clip": settings.clip or "none",
            "features": features.name,
            "perceptual": settings.perceptual,
            "reference": "the data set's images 1 to 5" if data else "the un-erased model's images",
        }
        return cls(clip, features, _distance(settings.perceptual, judge, clip), data, stamp)


def _features(name: str, judge: Classifier, clip: TextImageModel | None) -> FeatureNetwork:
    if name == "inception":
        return InceptionFeatures()
    return ClipFeatures(clip) if name == "clip" and clip else JudgeFeatures(judge)


def _distance(name: str, judge: Classifier, clip: TextImageModel | None) -> Distance:
    if name == "lpips":
        return lpips
    network = clip if name == "clip" and clip else judge
    return lambda a, b: perceptual_distance(network.layers(a), network.layers(b))


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


def quality(
    eyes: Eyes, kept: Sequence[Key], files: Sequence[Path], before: Sequence[Path] | None
) -> tuple[dict[str, Score], dict[str, Score]]:
    """(scores, the un-erased model's) of the images of these keys, in files of the same order.

    `before` are the un-erased model's files, where there are any.
    """
    count = len(kept)
    drawn: Reader = lambda place: read_image(files[place])  # noqa: E731
    seen, scores = _seen(eyes, drawn, count), _clip(eyes, drawn, kept)
    wanted, baseline = None, dict[str, Score]()
    if (data := eyes.data) is not None:
        wanted = _seen(eyes, lambda place: data(kept[place]), count)
    if before is not None:
        untouched: Reader = lambda place: read_image(before[place])  # noqa: E731
        known, baseline = _seen(eyes, untouched, count), _clip(eyes, untouched, kept)
        pairs = zip(_parts(drawn, count), _parts(untouched, count), strict=True)
        moved = torch.cat([eyes.distance(*pair).cpu() for pair in pairs])
        scores["perceptual"] = replace(mean(moved), higher_is_better=False)
        if wanted is None:
            wanted = known
        else:
            baseline |= distances(known, wanted)
    return scores | (distances(seen, wanted) if wanted is not None else {}), baseline


def _parts(read: Reader, count: int) -> Iterator[Images]:
    for start in range(0, count, AT_ONCE):
        yield torch.stack([read(place) for place in range(start, min(start + AT_ONCE, count))])


def _seen(eyes: Eyes, read: Reader, count: int) -> Float[Tensor, "n d"]:
    return torch.cat([eyes.features(part).cpu() for part in _parts(read, count)])


def _clip(eyes: Eyes, read: Reader, kept: Sequence[Key]) -> dict[str, Score]:
    if eyes.clip is None:
        return {}
    prompts, found = [shot.prompt for shot in shots(kept)], []
    for number, part in enumerate(_parts(read, len(kept))):
        asked = prompts[number * AT_ONCE :][: len(part)]
        found.append(clip_scores(eyes.clip, part, asked).cpu())
    return {"CLIP": mean(torch.cat(found))}
