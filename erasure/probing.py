"""What a classifier knows while a request is learned: accuracies on a probe, in the run's log.

The probe is eight held-out images of each class that are none of the test images, so that what is
chosen by its worst moments is not chosen by the test. Where the source has no more held-out images
of some class, it is the first test images of each, and the log says so.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from erasure.files.storage import read_lines
from erasure.models.classifier.classifier import Classifier
from erasure.requested import Data, Request, load_parts
from erasure.training.run import Run
from erasure_datasets.labelled import Labelled

PER_CLASS = 8


@dataclass(frozen=True)
class Probe:
    """Held-out images to look at on the way; `is_apart` says that none is a test image."""

    images: Labelled
    is_apart: bool

    def per_class(self, classes: int) -> list[int]:
        """How many there are of each class."""
        return torch.bincount(self.images.labels, minlength=classes).tolist()


def load_with_probe(
    model: Classifier, data: Data, *, workers: int = 0
) -> tuple[Labelled, Labelled, Probe]:
    """(training images, test images, probe); the first two as `load_parts` gives them."""
    count = data.test_images
    more = replace(data, test_images=count + PER_CLASS) if count else data
    train, held_out = load_parts(model, more, workers=workers)
    ranks = _ranks(held_out.labels.tolist())
    last = count or len(ranks)
    test = held_out.at([place for place, rank in enumerate(ranks) if rank < last])
    rest = held_out.at([place for place, rank in enumerate(ranks) if rank >= last])
    classes = sorted({*test.labels.tolist()})
    is_apart = classes == sorted({*rest.labels.tolist()})
    return train, test, Probe((rest if is_apart else test).of(classes, PER_CLASS), is_apart)


def _ranks(labels: Sequence[int]) -> list[int]:
    """How many images of its own class stand before each."""
    seen, ranks = Counter[int](), []
    for label in labels:
        ranks.append(seen[label])
        seen[label] += 1
    return ranks


@dataclass
class Watch:
    """Looks at the model before a request, after every so many of its steps, and at its end.

    A line of the log has the accuracies of `Request.measured` and, as `Acc`, that of each class, in
    the order of the labels (None without an image). The line of step 0 tells the probe.
    """

    model: Classifier
    request: Request
    run: Run
    probe: Probe
    every: int
    seconds: float = 0.0  # spent on looking while the request was learned
    _parts: dict[str, Labelled] = field(init=False)

    def __post_init__(self) -> None:
        every = range(len(self.model.labels))
        parts = self.request.measured(self.probe.images)
        self._parts = {name: part.of(every, PER_CLASS) for name, part in parts.items()}

    def __call__(self, stage: str, step: int) -> None:
        """What the run calls after each step."""
        if self.every and step % self.every == 0:
            start = time.monotonic()
            self.run.log(stage, step, *self._seen())
            self.seconds += time.monotonic() - start

    def begin(self) -> None:
        """Look at the model before the first step."""
        if self.every and self.run.is_main and not self._probed():
            values, own = self._seen()
            told: dict[str, Any] = {
                "every": self.every,
                "images": self.probe.per_class(len(self.model.labels)),
                "is_apart": self.probe.is_apart,
                "forgotten": self.request.classes,
                "earlier": self.request.earlier,
            }
            self.run.log(self.request.stage, 0, values, {**own, "probe": told})

    def end(self) -> None:
        """Look at what was learned; a method without steps counts as one."""
        if not self.every or not self.run.is_main:
            return
        probed = self._probed()
        steps = [line["step"] + 1 for line in self._lines() if line not in probed]
        last = max([1, *steps, *(line["step"] for line in probed)])
        values, own = self._seen()
        known = [line["Acc"] for line in probed if line["step"] == last and "Acc" in line]
        if own["Acc"] not in known:
            self.run.log(self.request.stage, last, values, own)

    def _lines(self) -> list[dict[str, Any]]:
        lines = read_lines(self.run.folder / "log.jsonl")
        return [line for line in lines if line.get("stage") == self.request.stage]

    def _probed(self) -> list[dict[str, Any]]:
        return [line for line in self._lines() if any(key.startswith("Acc_") for key in line)]

    def _seen(self) -> tuple[dict[str, float], dict[str, Any]]:
        """(each part's accuracy, each class's as `Acc`)."""
        right = {
            name: self.model.predict(part.images).argmax(1) == part.labels
            for name, part in self._parts.items()
            if len(part)
        }
        # of single images every class is kept, and its own accuracy is on held-out ones
        held_out = list(right) if self.request.classes else ["Acc_t"]
        known = torch.cat([right[name] for name in held_out]).float()
        labels = torch.cat([self._parts[name].labels for name in held_out])
        own = [_share(known[labels == number]) for number in range(len(self.model.labels))]
        return {name: float(hits.float().mean()) for name, hits in right.items()}, {"Acc": own}


def _share(right: Tensor) -> float | None:
    return round(float(right.mean()), 4) if len(right) else None
