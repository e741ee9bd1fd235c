"""Make a classifier forget classes, one request after another, and keep the result."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from torch import Tensor

from erasure.config import Value, refuse_without_effect, resolve
from erasure.edit import Edit
from erasure.errors import ModelError, RunError, SettingError
from erasure.files.naming import checked_path
from erasure.files.records import RequestsShape, read_record
from erasure.files.storage import write_json
from erasure.keeping import inputs, kept_edit, record_of
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.load import load_classifier
from erasure.models.diffusion.load import read_presets
from erasure.opening import lasting_name
from erasure.registry import METHODS, plugin_source
from erasure.training.hardware import Hardware, Precision
from erasure.training.run import Run
from erasure_datasets.canvas import OBJECTS, STYLES
from erasure_datasets.classes import Labelled, Part, load_classes
from erasure_datasets.concept import Concept

PROBED_PER_CLASS = 8


@dataclass(frozen=True)
class Request:
    """What to forget now, with training images: classes, by index, or single images.

    `classes` is empty where single images are forgotten, whose ids `forget` has. `earlier` classes
    were forgotten before.
    """

    number: int
    classes: list[int]
    earlier: list[int]
    kept: list[int]
    forget: Labelled
    retain: Labelled

    @property
    def stage(self) -> str:
        return f"request {self.number}"

    def told(self, model: Classifier) -> dict[str, list[str]]:
        """What is forgotten, for the records."""
        classes = [model.title(number) for number in self.classes]
        return {"classes": classes} if classes else {"classes": [], "samples": [*self.forget.ids]}

    def measured(self, test: Labelled) -> dict[str, Labelled]:
        """The images of each accuracy: test images of the classes forgotten now (Acc_f), earlier
        (Acc_o) and never (Acc_r); or single images (Acc_f), the other training images (Acc_r) and
        the test images (Acc_t).
        """
        if not self.classes:
            return {"Acc_f": self.forget, "Acc_r": self.retain, "Acc_t": test}
        classes = {"Acc_f": self.classes, "Acc_o": self.earlier, "Acc_r": self.kept}
        return {name: test.of(numbers) for name, numbers in classes.items()}

    def steps(self, epochs: int, batch_size: int, part: Labelled) -> int:
        """Optimiser steps of so many passes over a part."""
        return epochs * ceil(len(part) / batch_size)


@dataclass(frozen=True)
class Data:
    """Where images come from and how many: per class to train on, per class to test on.

    `shots` cuts the training images of every class, unless it is 0; the `missing` classes, which
    are among the kept ones, have none at all. SettingError for numbers out of range.
    """

    source: str = "auto"
    images: int = 64
    test_images: int = 32
    shots: int = 0
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("test_images", 1), ("shots", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise SettingError(f"{name} must be a whole number from {least} on; got {value!r}.")
        if not isinstance(self.source, str) or not self.source.strip():
            raise SettingError(
                f"data must be auto, an image folder, or hf:NAME; got {self.source!r}."
            )


@dataclass(frozen=True)
class Forgotten:
    """A finished run: the edited model, the edit, and the folder that holds it."""

    model: Classifier
    edit: Edit
    folder: Path


def forget(
    model: str | Classifier, method: str, tasks: Sequence[Sequence[str]] = (), *, out: Path | str,
    samples: Sequence[str | int] = (), data: Data = Data(), seed: int = 0, quick: bool = False,
    mixed_precision: Precision = "no", report_to: str | None = None, watch_every: int = 10,
    **settings: Value,
) -> Forgotten:  # fmt: skip
    """Forget each task's classes in turn, or single training images, and keep the edit under `out`.

    The same call resumes. `samples` are ids of training images, or their places among those that
    `data` gives, from 0 (see `Labelled`).

    A class is given by its label, by the label's part before a comma, or as "#134"; a task's texts
    may name several, with commas.
    Accuracies after each request go to requests.json, and on a probe every `watch_every`
    steps into log.jsonl (0: never). ErasureError for anything the caller can mend.
    """
    data = replace(data, source=lasting_name(data.source, "data"))
    method_class: Any = METHODS.get("classifier", method)
    if mixed_precision == "fp16":
        raise SettingError("mixed_precision must be no or bf16 for a classifier; got 'fp16'.")
    refuse_without_effect(method_class, method, {"mixed_precision": (mixed_precision, "no")})
    hardware = Hardware(mixed_precision=mixed_precision)
    run = Run(checked_path(out, "out"), seed=seed, hardware=hardware, report_to=report_to)
    if isinstance(model, str):
        model = load_classifier(lasting_name(model), device=run.device)
    loaded = model
    if loaded.originals:
        raise ModelError(f"{loaded.name} holds an edit already; undo it, or load the model afresh.")
    if not isinstance(watch_every, int) or watch_every < 0:
        raise SettingError(f"watch_every must be a whole number from 0 on; got {watch_every!r}.")
    if tasks and samples:
        raise SettingError("class and samples are two ways to say what to forget; give one.")
    classes = [] if samples else _checked(loaded, tasks)
    asked = [str(sample) for sample in samples]
    data = _with_titles(loaded, data, classes)
    word = method.replace("_", "-")
    chosen, sources = resolve(
        method_class, given=settings, quick=quick, presets=read_presets(loaded.folder, word)
    )
    concepts = [
        Concept(loaded.title(number), "class", label=number) for task in classes for number in task
    ] or [Concept(f"{len(asked)} training images", "samples")]
    record = {
        **record_of(run, word, loaded, concepts, chosen, sources),
        "tasks": [[loaded.title(number) for number in task] for task in classes],
        **({"samples": asked} if asked else {}),
        "data": asdict(data),
        "inputs": inputs(asdict(data)) | plugin_source(method_class),
        "quick": quick,
    }

    def make() -> Edit:
        train, test = load_parts(loaded, data)
        requests = _requests(loaded, classes, asked, train)
        return _forget_all(chosen, loaded, requests, concepts, test, word, watch_every, run)

    edit, is_new = kept_edit(run, record, make)
    if not is_new:
        edit.apply(loaded)
    return Forgotten(loaded, edit, run.folder)


def load_parts(model: Classifier, data: Data) -> tuple[Labelled, Labelled]:
    """(training images, test images); SettingError if the source cannot give them."""
    source = data.source
    if source == "auto":
        if model.labels not in (OBJECTS, STYLES):
            raise SettingError(
                f"data must be named for {model.name}: an image folder or hf:NAME; "
                "only the pocket suite's judges have their own."
            )
        source = "canvas"
    titles = tuple(model.title(number) for number in range(len(model.labels)))
    counts: tuple[tuple[Part, int], ...] = (
        ("train", data.shots or data.images), ("test", data.test_images),
    )  # fmt: skip
    how = model.transform
    try:
        parts = [
            load_classes(source, part, titles, size=how.size, per_class=count, prepare=how.cut)
            for part, count in counts
        ]
    except ValueError as error:
        raise SettingError(str(error)) from error
    missing = set(model.asked(data.missing))
    return parts[0].of([c for c in range(len(model.labels)) if c not in missing]), parts[1]


def accuracies(model: Classifier, parts: Mapping[str, Labelled]) -> dict[str, float]:
    """The share of images named rightly, in [0, 1], of each part that has any."""
    return {
        name: float((model.predict(part.images).argmax(1) == part.labels).float().mean())
        for name, part in parts.items()
        if len(part)
    }


def _checked(model: Classifier, tasks: Sequence[Sequence[str]]) -> list[list[int]]:
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


def _with_titles(model: Classifier, data: Data, tasks: list[list[int]]) -> Data:
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


def _requests(
    model: Classifier, tasks: list[list[int]], samples: Sequence[str], train: Labelled
) -> list[Request]:
    """The requests in turn, with their images; SettingError where there are none."""
    every, found = list(range(len(model.labels))), list[Request]()
    if samples:
        found.append(Request(0, [], [], every, *train.split(samples)))
    for number, now in enumerate(tasks):
        earlier = [c for task in tasks[:number] for c in task]
        kept = [c for c in every if c not in {*earlier, *now}]
        found.append(Request(number, now, earlier, kept, train.of(now), train.of(kept)))
    for request in found:
        if not len(request.retain):
            raise SettingError("there are no retain images; data has none of what is kept.")
        if not len(request.forget):
            raise SettingError("there are no images to forget; data has none of these classes.")
    return found


def _forget_all(
    method: Any, model: Classifier, requests: list[Request], concepts: list[Concept],
    test: Labelled, word: str, watch_every: int, run: Run,
) -> Edit:  # fmt: skip
    """Run the method on every request; what it learned, as one edit."""
    file, told = run.folder / "requests.json", [request.told(model) for request in requests]
    history: list[dict[str, Any]] = []
    if file.is_file():
        remedy = "remove it and run the command again"
        history = [dict(request) for request in read_record(file, RequestsShape, remedy=remedy)]
        is_own = [
            what.items() <= request.items() for request, what in zip(history, told, strict=False)
        ]
        if len(history) > len(told) or not all(is_own):
            raise RunError(f"{file} is of other requests; {remedy}.")
    adapters: dict[str, Tensor] = {}
    for request, what in zip(requests, told, strict=True):
        parts, is_new = request.measured(test), request.number >= len(history)
        before = accuracies(model, {"before": parts["Acc_f"]}) if is_new else {}
        probe = {name: part.of(range(len(model.labels)), PROBED_PER_CLASS)
                 for name, part in parts.items()}  # fmt: skip
        watched = 0.0

        def watch(stage: str, step: int, probe: dict[str, Labelled] = probe) -> None:
            nonlocal watched
            if watch_every and step % watch_every == 0:
                start = time.monotonic()
                run.log(stage, step, accuracies(model, probe))
                watched += time.monotonic() - start

        run.watcher, start = watch, time.monotonic()
        found = method.forget(model, request, run)
        run.watcher, seconds = None, time.monotonic() - start - watched
        if found is not None:
            adapters |= {f"request.{request.number}.{n}": tensor for n, tensor in found.items()}
        if is_new:
            facts = {**what, **before, **accuracies(model, parts)}
            history.append({**facts, "seconds": round(seconds, 1)})
            if run.is_main:
                write_json(file, history)
    tasks = [what["classes"] for what in told if what["classes"]]
    settings = {**asdict(method), "tasks": tasks}
    settings |= {"samples": told[0]["samples"]} if not tasks else {}
    if adapters:
        return Edit(
            adapters, word, concepts, model.name, form="lora", settings=settings,
            requests={str(number): task for number, task in enumerate(tasks)},
            moved=model.moved(),
        )  # fmt: skip
    return Edit.between(model, concepts, word, settings)
