"""Single training images that a classifier is to forget: which, and what stays at hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from erasure.errors import SettingError
from erasure.models.classifier.classifier import Classifier
from erasure_datasets.labelled import Labelled

WORDS = ("samples", "random_share", "true_labels", "keep")  # as config.json has them


@dataclass(frozen=True)
class Samples:
    """Named images, or a random share of all.

    `names` are ids, row numbers, places (`Labelled.find`) or paths; `labels` has the true label of
    each, where the data has it wrong. `share`, above 0 and below 1, is drawn from all training
    images by the run's seed. `kept` are the only images that stay at hand, instead of all others.
    SettingError for what does not go together.
    """

    names: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    share: float = 0.0
    kept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        share = self.share
        if not isinstance(share, (int, float)) or isinstance(share, bool) or not 0 <= share < 1:
            raise SettingError(f"random_share must be above 0 and below 1; got {share!r}.")
        if self.names and share:
            raise SettingError("samples and random_share both say what to forget; give one.")
        if self.kept and not self:
            raise SettingError("keep goes with samples or random_share; give one of them.")
        if self.labels and len(self.labels) != len(self.names):
            raise SettingError(
                f"true labels must be one for each sample; got {len(self.labels)} for "
                f"{len(self.names)}."
            )
        kept = {*self.kept}
        both = next((name for name in self.names if name in kept), None)
        if both is not None:
            raise SettingError(f"sample {both!r} is to be both forgotten and kept.")

    def __bool__(self) -> bool:
        return bool(self.names or self.share)

    @classmethod
    def of(cls, asked: "Samples | Sequence[str | int]", folder: str = "") -> Self | "Samples":
        """From a list of names, too; paths below the folder of images become ids."""
        if not isinstance(asked, Samples):
            asked = cls(tuple(str(name) for name in asked))
        place = Path(folder)
        if not place.is_dir():
            return asked
        names, kept = (tuple(_id(n, place) for n in part) for part in (asked.names, asked.kept))
        return Samples(names, asked.labels, asked.share, kept)

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> Self:
        """As a run's config.json says; none, for a run that forgets classes."""
        names, share, labels, kept = (record.get(word) or () for word in WORDS)
        return cls(tuple(names), tuple(labels), share or 0.0, tuple(kept))

    @property
    def title(self) -> str:
        """What they are, in a few words."""
        if self.share:
            return f"{100 * self.share:g} % of the training images"
        return f"{len(self.names)} training images"

    def record(self) -> dict[str, object]:
        """What config.json says of them: nothing, if there are none."""
        values = ([*self.names], self.share, [*self.labels], [*self.kept])
        return dict(zip(WORDS, values, strict=True)) if self else {}

    def parts(self, train: Labelled, generator: torch.Generator) -> tuple[Labelled, Labelled]:
        """(the images to forget, those that stay at hand); DataError for names of no image.

        SettingError where one is in both.
        """
        forget = self._drawn(train, generator) if self.share else train.find(self.names)
        gone = {*forget}
        if not self.kept:
            return train.at(forget), train.at([p for p in range(len(train)) if p not in gone])
        kept = train.find(self.kept)
        both = next((place for place in kept if place in gone), None)
        if both is not None:
            raise SettingError(f"sample {train.ids[both]!r} is to be both forgotten and kept.")
        return train.at(forget), train.at(kept)

    def true_labels(self, model: Classifier) -> Tensor | None:
        """The class index of each named image's true label; SettingError for an unknown label."""
        return torch.tensor(model.indices(self.labels)) if self.labels else None

    def _drawn(self, train: Labelled, generator: torch.Generator) -> list[int]:
        count = round(self.share * len(train))
        if not 0 < count < len(train):
            raise SettingError(
                f"random_share {self.share:g} of {len(train)} training images is "
                f"{'none' if count == 0 else 'all'} of them; give another share, or more images."
            )
        return sorted(torch.randperm(len(train), generator=generator)[:count].tolist())


def _id(name: str, folder: Path) -> str:
    """The id of an image that is named by its path, or the name as it is."""
    place = Path(name)
    if len(place.parts) < 2 or not place.is_file():
        return name
    place, root = place.resolve(), folder.resolve()
    return place.relative_to(root).as_posix() if place.is_relative_to(root) else name
