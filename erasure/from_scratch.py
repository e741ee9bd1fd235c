"""`erasure train`: an image classifier from random weights, in a folder that its library opens."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from erasure.config import Origin, Value, resolve
from erasure.errors import RunError, SettingError
from erasure.files.naming import checked_path
from erasure.files.storage import write_json, write_tensors
from erasure.inputs import inputs
from erasure.models.classifier.classifier import Classifier
from erasure.models.classifier.config import ClassifierConfig, ClassifierShape, parse_config
from erasure.models.classifier.filling import try_once
from erasure.models.classifier.load import empty_network, load_classifier, seeded
from erasure.models.classifier.stem import SMALL, Stem, has_large_stem
from erasure.models.classifier.transform import Transform
from erasure.opening import lasting_source
from erasure.requested import Data, accuracies, read_parts
from erasure.training.hardware import Hardware, Precision
from erasure.training.one_cycle import OneCycle
from erasure.training.progress import waiting
from erasure.training.recipe import learn, one_cycle, refuse_single_images
from erasure.training.run import Run
from erasure.training.run_folder import refuse_inside
from erasure_datasets.classes import class_names
from erasure_datasets.errors import DataError
from erasure_datasets.labelled import Labelled

WORK = "training"  # the run's own folder, inside of the classifier's
MEASURED, AT_ONCE = 2000, 100  # training images whose levels are the transform's


def train(
    architecture: str, *, data: str, out: Path | str, size: int = 32, stem: Stem | None = None,
    arguments: Mapping[str, Value | list[Value]] | None = None, images: int = 0,
    test_images: int = 0, workers: int = 0, seed: int = 0, quick: bool = False,
    mixed_precision: Precision = "no", report_to: str | None = None,
    origins: Mapping[str, Origin] | None = None, **settings: Value,
) -> Classifier:  # fmt: skip
    """Train timm's (or torchvision:NAME's) `architecture` on all classes of `data`.

    The same call resumes, and returns what is finished. `size` is the side of its pictures.
    `stem` cifar is that of ResNets for small pictures, which they get up to 64 pixels unless `stem`
    says own. `arguments` are the network's own (`patch_size`, `depth`); a ViT's pictures are cut
    into 8 x 8 patches below 128 pixels, unless they say otherwise. `images` and `test_images` are
    per class, all for 0. `settings` are those of `OneCycle`. The folder also gets training.json,
    with accuracies, and presets.json, by which `forget retrain` repeats this recipe. ErasureError
    for anything the caller can mend.
    """
    folder, source = checked_path(out, "out"), lasting_source(data)
    cycle, sources = resolve(OneCycle, given=settings, quick=quick, presets={}, origins=origins)
    if mixed_precision == "fp16":
        raise SettingError("mixed_precision must be no or bf16 for a classifier; got 'fp16'.")
    counts = Data(source, images, test_images)  # SettingError for numbers out of range
    labels = _named(source)
    record = _described(architecture, labels, size, stem, dict(arguments or {}))
    run = Run(
        folder / WORK, seed=seed, hardware=Hardware(mixed_precision=mixed_precision),
        report_to=report_to,
    )  # fmt: skip
    asked = {
        "command": shlex.join(sys.argv), "method": "train", "model": architecture,
        "settings": {**asdict(cycle), "network": record}, "sources": dict(sources),
        "data": asdict(counts), "inputs": inputs({"source": source}), "seed": seed,
        "mixed_precision": mixed_precision, "processes": run.accelerator.num_processes,
        "quick": quick,
    }  # fmt: skip
    refuse_inside(folder)
    _refuse_place(folder)
    with run.alone():
        run.begin(asked)
        if not (folder / "config.json").is_file():
            try:
                _trained(run, folder, record, counts, workers, cycle)
            except Exception as error:
                run.withdraw()
                _remove_empty(folder)
                if isinstance(error, DataError):
                    raise SettingError(str(error)) from error
                raise
            run.finish()
    return load_classifier(str(folder), device=run.device)


def _named(source: str) -> tuple[str, ...]:
    try:
        with waiting("reading classes"):
            labels = class_names(source)
    except ValueError as error:
        raise SettingError(str(error)) from error
    if len(labels) < 2:
        found = repr(labels[0]) if labels else "none"
        raise SettingError(f"data must have at least two classes; {source} has {found}.")
    return labels


def _described(
    architecture: str, labels: tuple[str, ...], size: int, stem: Stem | None,
    arguments: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The config.json of the network, but for the levels of its pictures.

    SettingError for a size out of range; ModelError for a network that cannot be built.
    """
    if not isinstance(size, int) or isinstance(size, bool) or not 8 <= size <= 1024:
        raise SettingError(f"size must be a whole number from 8 to 1024; got {size!r}.")
    if stem not in (None, *get_args(Stem)):
        raise SettingError(f"stem must be own or cifar; got {stem!r}.")
    word = architecture.removeprefix("timm:")
    if word.startswith(("vit_", "deit_")) and size < 128:
        arguments = {"img_size": size, "patch_size": max(1, size // 8), **arguments}
    record: dict[str, Any] = {
        "architecture": word, "num_classes": len(labels), "label_names": list(labels),
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, size, size], "mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 1.0,
            "interpolation": "bicubic",
        },
    }  # fmt: skip
    plain = empty_network(_config(record))
    chosen = stem or ("cifar" if size <= SMALL and has_large_stem(plain) else "own")
    if chosen != "own":
        record["stem"] = chosen
    config = _config(record)
    try_once(empty_network(config), config.transform, len(labels), word)
    return record


def _config(record: Mapping[str, Any]) -> ClassifierConfig:
    return parse_config(cast(ClassifierShape, record), "the network")


def _trained(
    run: Run, folder: Path, record: dict[str, Any], data: Data, workers: int, cycle: OneCycle
) -> None:
    """Train, measure, and write the folder; config.json, which says that all is there, last."""
    labels = tuple(record["label_names"])
    how = _config(record).transform
    train, test = read_parts(data, labels, how, workers)
    mean, std = levels(train)
    record["pretrained_cfg"] |= {"mean": [*mean], "std": [*std]}
    model = _network(run, record, replace(how, mean=mean, std=std))
    refuse_single_images("OneCycle", cycle.batch_size, model, run)
    recipe, steps = one_cycle(cycle, model), cycle.steps(len(train))
    learn(model, train, recipe, steps=steps, run=run, stage="training")
    found = accuracies(model, {"train": train, "test": test})
    if not run.is_main:
        return
    write_tensors(folder / "model.safetensors", model.network.state_dict())
    write_json(folder / "presets.json", {"retrain": {"recipe": "one-cycle", **asdict(cycle)}})
    told = {
        "settings": asdict(cycle), "seed": run.seed,
        "images": {"train": len(train), "test": len(test)},
        "accuracy": {name: round(share, 4) for name, share in found.items()},
    }  # fmt: skip
    write_json(folder / "training.json", told)
    write_json(folder / "config.json", record)


def _network(run: Run, record: dict[str, Any], transform: Transform) -> Classifier:
    """The network with its library's own random weights, fixed by the run's seed."""
    config = _config(record)
    network = seeded(lambda: empty_network(config), run.generator_for("weights"))
    return Classifier(
        network.to(run.device), name=config.architecture, labels=config.labels,
        transform=transform, library="torchvision" if config.is_of_torchvision else "timm",
    )  # fmt: skip


def levels(part: Labelled) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, spread) of each channel in [0, 1], over evenly spaced images, to three digits."""
    places = torch.linspace(0, len(part) - 1, min(len(part), MEASURED)).long()
    total, squares, count = torch.zeros(3).double(), torch.zeros(3).double(), 0
    for chosen in places.split(AT_ONCE):
        values: Tensor = part.images[chosen].float() / 255
        flat = values.transpose(0, 1).flatten(1)
        total += flat.sum(1)
        squares += flat.square().sum(1)
        count += flat.shape[1]
    mean = total / count
    spread = (squares / count - mean.square()).clamp(min=1e-4).sqrt()  # one colour has none
    return _rounded(mean), _rounded(spread)


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(float(value), 3) for value in values)


def _refuse_place(folder: Path) -> None:
    """RunError for a folder that holds anything but a training of ours."""
    if folder.exists() and not (folder / WORK / "config.json").is_file() and any(folder.iterdir()):
        raise RunError(f"{folder} exists and is no training of ours; name another --out.")


def _remove_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
