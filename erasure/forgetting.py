"""Make a classifier forget classes, one request after another, and keep the result."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from erasure.config import Origin, Value, refuse_without_effect, resolve
from erasure.edit import Edit
from erasure.errors import ModelError, RunError, SettingError
from erasure.files.naming import checked_path
from erasure.files.records import RequestsShape, read_record
from erasure.files.storage import write_json
from erasure.inputs import inputs
from erasure.keeping import kept_edit, record_of
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.load import load_classifier
from erasure.models.diffusion.load import read_presets
from erasure.opening import lasting_name, lasting_source
from erasure.probing import Probe, Watch, load_with_probe
from erasure.registry import METHODS
from erasure.requested import (
    Data,
    Request,
    accuracies,
    checked_tasks,
    requests_of,
    with_titles,
)
from erasure.sample_requests import Samples
from erasure.training.hardware import Hardware, Precision
from erasure.training.rehearsal import Rehearsal
from erasure.training.run import Run
from erasure_datasets.concept import Concept
from erasure_datasets.labelled import Labelled


@dataclass(frozen=True)
class Forgotten:
    """A finished run: the edited model, the edit, and the folder that holds it."""

    model: Classifier
    edit: Edit
    folder: Path


def forget(
    model: str | Classifier, method: str, tasks: Sequence[Sequence[str]] = (), *, out: Path | str,
    samples: Samples | Sequence[str | int] = (), data: Data = Data(), workers: int = 0,
    seed: int = 0, quick: bool = False, mixed_precision: Precision = "no",
    report_to: str | None = None, watch_every: int = 10,
    origins: Mapping[str, Origin] | None = None, **settings: Value,
) -> Forgotten:  # fmt: skip
    """Forget each task's classes in turn, or single training images, and keep the edit under `out`.

    The same call resumes. `samples` are ids of training images, row numbers of a data set, places
    among those that `data` gives, from 0, or what else `Samples` can say. `workers` threads read
    pictures that do not fit into memory (0: one per core).

    A class is given by its label, by the label's part before a comma, or as "#134"; a task's texts
    may name several, with commas.
    Accuracies after each request go to requests.json, and on a probe every `watch_every`
    steps into log.jsonl (0: never). `origins` says of given values, for the record, where they came
    from if not from the caller. ErasureError for anything the caller can mend.
    """
    plan = planned(
        model, method, tasks, out=out, samples=samples, data=data, workers=workers, seed=seed,
        quick=quick, mixed_precision=mixed_precision, report_to=report_to,
        watch_every=watch_every, origins=origins, rehearsal=None, **settings,
    )  # fmt: skip
    edit, is_new = kept_edit(plan.run, plan.record, lambda: plan.make(plan.method))
    if not is_new:
        edit.apply(plan.model)
    return Forgotten(plan.model, edit, plan.run.folder)


@dataclass(frozen=True)
class Plan:
    """A forgetting that is checked and has not begun, of `tasks` by index or of `samples`."""

    run: Run
    model: Classifier
    method: Any
    record: dict[str, Any]
    tasks: list[list[int]]
    samples: Samples
    data: Data
    workers: int
    concepts: list[Concept]
    watch_every: int

    def requests(self) -> tuple[list[Request], Labelled, Probe]:
        """The requests with their images, the test images, and those to look at on the way."""
        train, test, probe = load_with_probe(self.model, self.data, workers=self.workers)
        return requests_of(
            self.model, self.tasks, self.samples, train, self.run.generator_for("samples"),
            needs_retain=getattr(self.method, "needs_retain", True),
        ), test, probe  # fmt: skip

    def make(self, method: Any) -> Edit:
        """Let a method forget every request."""
        return _forget_all(self, method, *self.requests())


def planned(
    model: str | Classifier, method: str, tasks: Sequence[Sequence[str]] = (), *, out: Path | str,
    samples: Samples | Sequence[str | int] = (), data: Data = Data(), workers: int = 0,
    seed: int = 0, quick: bool = False, mixed_precision: Precision = "no",
    report_to: str | None = None, watch_every: int = 10,
    origins: Mapping[str, Origin] | None = None, rehearsal: Rehearsal | None = None,
    **settings: Value,
) -> Plan:  # fmt: skip
    """As `forget` up to where it begins; a `rehearsal` is for a run that is only tried."""
    data = replace(data, source=lasting_source(data.source))
    method_class: Any = METHODS.get("classifier", method)
    if mixed_precision == "fp16":
        raise SettingError("mixed_precision must be no or bf16 for a classifier; got 'fp16'.")
    refuse_without_effect(method_class, method, {"mixed_precision": (mixed_precision, "no")})
    hardware = Hardware(mixed_precision=mixed_precision)
    run = Run(
        checked_path(out, "out"), seed=seed, hardware=hardware, report_to=report_to,
        rehearsal=rehearsal,
    )  # fmt: skip
    if isinstance(model, str):
        model = load_classifier(lasting_name(model), device=run.device)
    loaded = model
    if loaded.originals:
        raise ModelError(f"{loaded.name} holds an edit already; undo it, or load the model afresh.")
    if not isinstance(watch_every, int) or watch_every < 0:
        raise SettingError(f"watch_every must be a whole number from 0 on; got {watch_every!r}.")
    asked = Samples.of(samples, data.source)
    if tasks and asked:
        raise SettingError("class and samples are two ways to say what to forget; give one.")
    refuse_unsuited(method_class, method, asked)
    asked.true_labels(loaded)  # SettingError for a label that is none
    classes = [] if asked else checked_tasks(loaded, tasks)
    data = with_titles(loaded, data, classes)
    word = method.replace("_", "-")
    chosen, sources = resolve(
        method_class, given=settings, quick=quick, presets=read_presets(loaded.folder, word),
        origins=origins,
    )  # fmt: skip
    concepts = [
        Concept(loaded.title(number), "class", label=number) for task in classes for number in task
    ] or [Concept(asked.title, "samples")]
    told = record_of(run, word, loaded, concepts, chosen, {**(origins or {}), **sources})
    record = {
        **told,
        "tasks": [[loaded.title(number) for number in task] for task in classes],
        **asked.record(),
        "data": asdict(data),
        "inputs": {**told["inputs"], **inputs(asdict(data))},
        "quick": quick,
    }
    return Plan(run, loaded, chosen, record, classes, asked, data, workers, concepts, watch_every)


def refuse_unsuited(method: type, word: str, samples: Samples | bool) -> None:
    """SettingError for single images if the method forgets classes alone, and the reverse.

    It says so by `of_classes_alone` and `of_samples_alone`.
    """
    if samples and getattr(method, "of_classes_alone", False):
        raise SettingError(f"{word} forgets whole classes, no samples. Choose another method.")
    if not samples and getattr(method, "of_samples_alone", False):
        raise SettingError(f"{word} deletes single images, no classes. Give samples.")


def _forget_all(
    plan: Plan, method: Any, requests: list[Request], test: Labelled, probe: Probe
) -> Edit:
    """Run the method on every request; what it learned, as one edit."""
    run, model, concepts, word = plan.run, plan.model, plan.concepts, plan.record["method"]
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
        watch = Watch(model, request, run, probe, plan.watch_every)
        if is_new:
            watch.begin()
        run.watcher, start = watch, time.monotonic()
        found = method.forget(model, request, run)
        run.watcher, seconds = None, time.monotonic() - start - watch.seconds
        if is_new:
            watch.end()
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
