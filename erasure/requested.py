"""What a classifier is asked to forget: requests, with the images to forget and to keep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch
from torch import Tensor

from erasure.errors import SettingError
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.transform import Transform
from erasure.sample_requests import Samples
from erasure.training.progress import waiting
from erasure_datasets.canvas import OBJECTS, STYLES
from erasure_datasets.classes import Part, load_classes
from erasure_datasets.labelled import Labelled


@dataclass(frozen=True)
class Request:
    """What to forget now, with training images: classes, by index, or single images.

    `classes` is empty where single images are forgotten, whose ids `forget` has; `true_labels` are
    their right classes, where the labels that were learnt are known to be wrong. `earlier` classes
    were forgotten before.
    """

    number: int
    classes: list[int]
    earlier: list[int]
    kept: list[int]
    forget: Labelled
    retain: Labelled
    true_labels: Tensor | None = None

    @property
    def stage(self) -> str:
        return f"request {self.number}"

    def told(self, model: Classifier) -> dict[str, list[str]]:
        """What is forgotten, for the records."""
        classes = [model.title(number) for number in self.classes]
        return {"classes": classes} if classes else {"classes": [], "samples": [*self.forget.ids]}

    def measured(self, test: Labelled) -> dict[str, Labelled]:
        """The images of each accuracy: test images of the classes forgotten now (Acc_f), earlier
        (Acc_o) and never (Acc_r); or single images (Acc_f), the other training images at hand
        (Acc_r), the test images (Acc_t), and single images by their true labels (Acc_corr).
        """
        if not self.classes:
            parts = {"Acc_f": self.forget, "Acc_r": self.retain, "Acc_t": test}
            if self.true_labels is not None:
                parts["Acc_corr"] = self.forget.relabelled(self.true_labels)
            return parts
        classes = {"Acc_f": self.classes, "Acc_o": self.earlier, "Acc_r": self.kept}
        return {name: test.of(numbers) for name, numbers in classes.items()}

    def steps(self, epochs: int, batch_size: int, part: Labelled) -> int:
        """Optimiser steps of so many passes over a part."""
        return epochs * ceil(len(part) / batch_size)


@dataclass(frozen=True)
class Data:
    """Where images come from and how many: per class to train on, per class to test on.

    `images` and `test_images` are all that the source has for 0. `shots` cuts the training images
    of every class, unless it is 0; the `missing` classes, which are among the kept ones, have none
    at all. SettingError for numbers out of range.
    """

    source: str = "auto"
    images: int = 64
    test_images: int = 32
    shots: int = 0
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("images", 0), ("test_images", 0), ("shots", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise SettingError(f"{name} must be a whole number from {least} on; got {value!r}.")
        if not isinstance(self.source, str) or not self.source.strip():
            raise SettingError(f"data must be auto, a folder, or hf:NAME; got {self.source!r}.")


def load_parts(model: Classifier, data: Data, *, workers: int = 0) -> tuple[Labelled, Labelled]:
    """(training images, test images); SettingError if the source cannot give them.

    `workers` threads read pictures (0: one per core).
    """
    source = data.source
    if source == "auto":
        if model.labels not in (OBJECTS, STYLES):
            raise SettingError(
                f"data must be named for {model.name}: a folder or hf:NAME; "
                "only the pocket suite's judges have their own."
            )
        source = "canvas"
    titles = tuple(model.title(number) for number in range(len(model.labels)))
    train, test = read_parts(replace(data, source=source), titles, model.transform, workers)
    missing = set(model.asked(data.missing))
    if missing:
        train = train.of([c for c in range(len(model.labels)) if c not in missing])
    return train, test


def read_parts(
    data: Data, titles: tuple[str, ...], how: Transform, workers: int
) -> tuple[Labelled, Labelled]:
    """(training images, test images) of these classes, cut as `how` says; SettingError if none."""

    def part(name: Part, count: int) -> Labelled:
        return load_classes(
            data.source, name, titles, size=how.size, per_class=count, prepare=how.cut,
            workers=workers,
        )  # fmt: skip

    try:
        with waiting("reading images"):
            return part("train", data.shots or data.images), part("test", data.test_images)
    except ValueError as error:
        raise SettingError(str(error)) from error


def accuracies(model: Classifier, parts: Mapping[str, Labelled]) -> dict[str, float]:
    """The share of images named rightly, in [0, 1], of each part that has any."""
    return {
        name: float((model.predict(part.images).argmax(1) == part.labels).float().mean())
        for name, part in parts.items()
        if len(part)
    }


def checked_tasks(model: Classifier, tasks: Sequence[Sequence[str]]) -> list[list[int]]:
    """Each task's class indices; SettingError for an empty, unknown or repeated class."""
    lists = (list, tuple)
    if not isinstance(tasks, lists) or not all(isinstance(task, lists) for task in tasks):
        raise SettingError('tasks must be lists of class names, as in [["cat", "dog"], ["bird"]].')
    classes = [model.asked(task) for task in tasks]
    if not all(classes) or not classes:
        raise SettingError("class must be given at least once.")
    flat = [number for task in classes for number in task]
    twice = next((number for number in flat if flat.count(number) > 1), None)
    if twice is not None:
        raise SettingError(f"class {model.title(twice)!r} is asked for twice.")
    if len(flat) == len(model.labels):
        raise SettingError("at least one class must be kept; every class is to be forgotten.")
    return classes


def with_titles(model: Classifier, data: Data, tasks: list[list[int]]) -> Data:
    """The data with its missing classes by their one name; SettingError if they cannot be."""
    missing = model.asked(data.missing)
    asked = [number for task in tasks for number in task]
    wrong = next((number for number in missing if number in asked), None)
    if wrong is not None:
        raise SettingError(
            f"missing must name kept classes; {model.title(wrong)!r} is to be forgotten, and there "
            "would be no images to forget."
        )
    if {*asked, *missing} == set(range(len(model.labels))):
        raise SettingError("there are no retain images; missing names every class that is kept.")
    return replace(data, missing=tuple(model.title(number) for number in missing))


def requests_of(
    model: Classifier, tasks: list[list[int]], samples: Samples, train: Labelled,
    generator: torch.Generator, *, needs_retain: bool = True,
) -> list[Request]:  # fmt: skip
    """The requests in turn, with their images; SettingError where there are none.

    A random share of the images is drawn by the generator. A method that `needs_retain` no images
    of what is kept may have none.
    """
    every, found = list(range(len(model.labels))), list[Request]()
    if samples:
        parts = samples.parts(train, generator)
        found.append(Request(0, [], [], every, *parts, samples.true_labels(model)))
    for number, now in enumerate(tasks):
        earlier = [c for task in tasks[:number] for c in task]
        kept = [c for c in every if c not in {*earlier, *now}]
        found.append(Request(number, now, earlier, kept, train.of(now), train.of(kept)))
    for request in found:
        if needs_retain and not len(request.retain):
            raise SettingError("there are no retain images; data has none of what is kept.")
        if not len(request.forget):
            raise SettingError("there are no images to forget; data has none of these classes.")
    return found
