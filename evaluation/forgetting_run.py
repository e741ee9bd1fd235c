"""A run of `erasure forget`, opened to be judged: its model, its images, its requests."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from erasure.edit import Edit
from erasure.errors import RunError, SettingError
from erasure.files.records import ForgettingShape, RequestsShape, read_record
from erasure.inputs import inputs
from erasure.models.classifier.classifier import Classifier
from erasure.opening import open_classifier
from erasure.requested import Data, Request, load_parts
from erasure.sample_requests import Samples
from erasure.training.processes import own_device
from erasure_datasets.labelled import Labelled

REMEDY = "a run keeps it beside its edit; make the run again, or undo from it again"


@dataclass(frozen=True)
class ForgettingRun:
    """What a run of `forget` was of. The model is not edited yet; `other` is the reference's."""

    edit: Edit
    config: ForgettingShape
    requests: RequestsShape
    model: Classifier
    other: Classifier | None
    train: Labelled
    test: Labelled
    samples: Samples


def open_run(run: Path, *, reference: Path | None, base: Path | str | None) -> ForgettingRun:
    """A run whose files agree with one another and with its images.

    `reference` is a retrained model's run. RunError, EditError or SettingError for what does not
    fit.
    """
    edit = Edit.load(run)
    config = read_record(run / "config.json", ForgettingShape)
    requests = read_record(run / "requests.json", RequestsShape, remedy=REMEDY)
    given = dict(config["data"])
    data = Data(**{**given, "missing": tuple(given["missing"])})  # type: ignore[arg-type]
    samples = Samples.recorded(config)
    if samples:
        _refuse_other_samples(run, edit, [told.get("samples", []) for told in requests])
    else:
        _refuse_other_requests(run, edit, config["tasks"], [told["classes"] for told in requests])
    _refuse_other_images(run, data, config.get("inputs", {}))
    model = open_classifier(run, device=own_device(), edited=False, base=base)
    other = _reference(reference, edit, model)
    train, test = load_parts(model, data)
    return ForgettingRun(edit, config, requests, model, other, train, test, samples)


def sample_request(found: ForgettingRun) -> Request:
    """A run's request of single images again: the very ones that its edit names."""
    told: Any = found.edit.settings.get("samples")
    again = replace(found.samples, names=tuple(told), share=0.0)
    every = list(range(len(found.model.labels)))
    parts = again.parts(found.train, torch.Generator())
    return Request(0, [], [], every, *parts, again.true_labels(found.model))


def whole_request(found: ForgettingRun) -> Request:
    """All that the run forgot, as one request: single images, or every image of its classes."""
    if found.samples:
        return sample_request(found)
    gone = [number for task in found.config["tasks"] for number in found.model.indices(task)]
    kept = [number for number in range(len(found.model.labels)) if number not in gone]
    return Request(0, gone, [], kept, found.train.of(gone), found.train.of(kept))


def confidence(model: Classifier, part: Labelled) -> Float[Tensor, " n"]:
    """The probability that a model gives to each image's own class."""
    return of_own_class(model.predict(part.images), part) if len(part) else torch.empty(0)


def of_own_class(said: Float[Tensor, "n classes"], part: Labelled) -> Float[Tensor, " n"]:
    """What is said of each image's own class."""
    return said[torch.arange(len(part)), part.labels]


def forgot_the_same(reference: Path, found: ForgettingRun) -> bool:
    """Whether the reference's run forgot the very classes or single images that this one did."""
    other, own = Edit.load(reference), found.edit
    if found.samples:
        told: Any = (edit.settings.get("samples", []) for edit in (other, own))
        theirs, ours = ({*ids} for ids in told)
        return theirs == ours
    names = ({concept.name for concept in edit.concepts} for edit in (other, own))
    theirs, ours = names
    return theirs == ours and "samples" not in other.settings


def _refuse_other_requests(
    run: Path, edit: Edit, tasks: list[list[str]], measured: list[list[str]]
) -> None:
    """RunError unless the run's files agree on what was forgotten, request by request."""
    names = [concept.name for concept in edit.concepts]
    asked = list(edit.requests.values()) if edit.form == "lora" else tasks
    flat = [name for task in tasks for name in task]
    for file, told, known in (
        ("edit.json", names, flat), ("edit.json", asked, tasks), ("requests.json", measured, tasks),
    ):  # fmt: skip
        if told != known:
            raise RunError(
                f"{run / file} says that {told} were forgotten, and config.json {known}; "
                "put back what was changed by hand."
            )


def _refuse_other_samples(run: Path, edit: Edit, measured: list[list[str]]) -> None:
    """RunError unless edit.json and requests.json agree on the images that were forgotten."""
    if measured != [edit.settings.get("samples")]:
        raise RunError(
            f"{run / 'requests.json'} names other images than edit.json; put back what was changed "
            "by hand."
        )


def _refuse_other_images(run: Path, data: Data, noted: Mapping[str, str]) -> None:
    """RunError if the folder of images is not as the run found it."""
    held = inputs(asdict(data), noted)
    if any(digest != noted.get(name, digest) for name, digest in held.items()):
        raise RunError(
            f"{data.source} does not hold the images that {run} was made with: files have come, "
            "gone or changed since. Put them back as they were to judge it."
        )


def _reference(reference: Path | None, edit: Edit, model: Classifier) -> Classifier | None:
    """The retrained model, on the same device; SettingError if it began as another model."""
    if reference is None:
        return None
    other = Edit.load(reference)
    digests = edit.base_digest, other.base_digest
    is_same = digests[0] == digests[1] if all(digests) else other.base == edit.base
    if not other.is_of_classifier or not is_same:
        raise SettingError(f"reference must be of {edit.base}; {reference} is of {other.base}.")
    return open_classifier(reference, device=model.device)
