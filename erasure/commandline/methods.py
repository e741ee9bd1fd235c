"""`erasure erase METHOD` and `erasure forget METHOD`: one option per field of a method's dataclass.

Everything heavy is named by a string and imported when its command runs.
"""

import inspect
import json
from pathlib import Path
from typing import Any

from erasure.commandline.forecast import print_forecast
from erasure.commandline.options import (
    BASE,
    LazyGroup,
    built,
    given_settings,
    load,
    option,
    setting_options,
)
from erasure.commandline.printing import say
from erasure.config import EARLIER
from erasure.errors import SettingError
from erasure.registry import METHODS

DRY_RUN = "check everything, try a few steps, say what it would take, and write nothing"


class MethodGroup(LazyGroup):
    """`erasure erase METHOD`."""

    noun = "method"

    def list_commands(self, ctx: Any) -> list[str]:
        return METHODS.names("diffusion")

    def build(self, name: str) -> Any:
        return _erase_command(name)


class ForgetGroup(LazyGroup):
    """`erasure forget METHOD`."""

    noun = "method"

    def list_commands(self, ctx: Any) -> list[str]:
        return METHODS.names("classifier")

    def build(self, name: str) -> Any:
        return _forget_command(name)


def told_methods() -> list[str]:
    """Every method with its idea, its kind of model and what it changes, as its file says."""
    told = []
    kinds = (
        ("erase", METHODS.kinds["diffusion"], "text-to-image model"),
        ("forget", METHODS.kinds["classifier"], "image classifier"),
    )
    for command, registry, model in kinds:
        for name in registry.names():
            idea, changes = _opening(registry.docstring(name))
            told.append(f"{command} {name}\n    {idea}\n    {model}; {changes}")
    return told


def _opening(text: str) -> tuple[str, str]:
    """The first two paragraphs of a docstring, each in one line."""
    first, second = (" ".join(part.split()) for part in [*text.split("\n\n"), ""][:2])
    return first, second[:1].lower() + second[1:]


def _common_options(name: str) -> list[inspect.Parameter]:
    """The options of every method; of one that `needs_no_name` a concept says less."""
    what = "what to erase; may be given several times"
    if getattr(METHODS.get("diffusion", name), "needs_no_name", False):
        what = "what the pictures show, if it has a name: for the records and for judging alone"
    options: list[tuple[str, Any, Any, str]] = [
        ("concept", list[str] | None, None, what),
        (
            "concepts_file", Path | None, None,
            "a file of concepts instead: .txt with a name a line, or .csv, .tsv or .jsonl with "
            "columns concept and, if wanted, kind, anchor, templates (with | between, or a list)",
        ),
        (
            "model",
            str,
            "pocket",
            "pocket, a diffusers folder, a Hub id, a .safetensors file with --config, or a run, "
            "to erase further from it",
        ),
        ("out", Path, ..., "the run's folder"),
        (
            "kind", list[str] | None, None,
            "style, object, person or unsafe: for free-text concepts; once, or once per concept",
        ),
        ("anchor", list[str] | None, None, "what to draw instead; once, or once per concept"),
        (
            "template", list[str] | None, None,
            "a prompt that names a free-text concept, with {name} or {a name} in it, instead of "
            "the kind's own; may be given several times",
        ),
        (
            "contexts", str | None, None,
            "erase by the prompts alone that hold one of these, with commas: styles for an object, "
            "objects for a style, of the model's list",
        ),
        ("config", Path | None, None, "component configs for a single .safetensors file"),
        ("revision", str | None, None, "branch, tag or commit of a Hub id"),
        ("base", str | None, None, BASE),
        ("seed", int, 0, "seed of everything random"),
        ("report_to", str | None, None, "tensorboard, wandb or another accelerate tracker"),
        ("sample_every", int, 0, "steps between pictures for that tracker; 0 for none"),
        ("quick", bool, False, "the method's smoke-run values"),
        ("dry_run", bool, False, DRY_RUN),
    ]  # fmt: skip
    return [option(*line) for line in options]


def erase_options(name: str) -> list[inspect.Parameter]:
    """The options of `erase NAME`: the common ones and one per field of the method's dataclass."""
    kinds = [load("erasure.training.hardware:Hardware"), METHODS.get("diffusion", name)]
    return [*_common_options(name), *(entry for kind in kinds for entry in setting_options(kind))]


def _erase_command(name: str) -> Any:
    common = _common_options(name)
    named = {entry.name for entry in common} - {"concept", "concepts_file", "model"}

    def command(origins: Any, **values: Any) -> None:
        repeats = _repeated(values.pop("from_"), values, origins)
        is_dry = values.pop("dry_run")
        asked = {
            **{name: values[name] for name in named if name in values},
            **given_settings(values, common), "origins": origins, "repeats": repeats,
        }  # fmt: skip
        what = values["model"], name, _named(values["concept"], values["concepts_file"])
        if is_dry:
            print_forecast(load("erasure.foreseeing:foresee_erasure")(*what, **asked))
            return
        result = load("erasure.erasing:erase")(*what, **asked)
        record = json.loads((result.folder / "config.json").read_text())
        say(
            f"{result.folder}: {len(result.edit.shapes())} tensors changed, "
            f"{record.get('seconds', 0):.0f} s"
        )

    text = inspect.getdoc(inspect.getmodule(METHODS.get("diffusion", name)))
    return built(name, command, erase_options(name), text, has_earlier=True)


def _named(names: list[str] | None, file: Path | None) -> list[str] | Path:
    """What `erase` takes as concepts; SettingError for both."""
    if names and file:
        raise SettingError(f"concept has no effect beside concepts-file; {file} names them all.")
    return file or names or []


def _repeated(run: Path | None, values: dict[str, Any], origins: dict[str, Any]) -> Path | None:
    """The earlier run; SettingError for `--quick` with it, which could change nothing.

    Its config and revision are of its own model, and of no other that is given.
    """
    if run is not None and values["quick"] and origins.get("quick") != EARLIER:
        raise SettingError(f"quick has no effect beside from, since {run} gives every setting.")
    if run is not None and origins.get("model") != EARLIER:
        for name in ("config", "revision"):
            if origins.get(name) == EARLIER:
                values[name] = None
                del origins[name]
    return run


def _request_options() -> list[inspect.Parameter]:
    """The options of `forget` that every method has."""
    texts: list[tuple[str, Any, Any, str]] = [
        ("class_", list[str] | None, None, "what to forget, in one request; several with commas"),
        ("task", list[str] | None, None, "one request of several, in turn: cat,dog"),
        (
            "samples",
            Path | None,
            None,
            "a file of single training images to forget: row numbers or paths, one a line, or a "
            "CSV with columns sample and, perhaps, label: the true one",
        ),
        (
            "random_share",
            float,
            0.0,
            "forget this share of all training images, drawn by --seed: 0.1",
        ),
        (
            "keep",
            Path | None,
            None,
            "beside samples: a file of the only training images at hand to keep",
        ),
        ("model", str, "pocket-vit", "pocket-vit, timm:NAME, a classifier's folder or a Hub id"),
        ("out", Path, ..., "the run's folder"),
        ("data", str, "auto", "images: the model's own, a folder of images or parquet, or hf:NAME"),
        ("images", int, 64, "training images per class; 0 for all"),
        ("test_images", int, 32, "held-out images per class; 0 for all"),
        ("workers", int, 0, "threads that read pictures; 0 for one per core"),
        ("shots", int, 0, "if above 0, only so many training images per class"),
        ("missing", str, "", "kept classes without training images, with commas"),
        ("watch_every", int, 10, "steps between looks at a probe; 0 for none"),
        ("seed", int, 0, "seed of everything random"),
        ("mixed_precision", str, "no", "no or bf16"),
        ("report_to", str | None, None, "tensorboard, wandb or another accelerate tracker"),
        ("quick", bool, False, "the method's smoke-run values"),
        ("dry_run", bool, False, DRY_RUN),
    ]
    return [option(*line) for line in texts]


def forget_options(name: str) -> list[inspect.Parameter]:
    """The options of `forget NAME`: a request's and one per field of the method's dataclass."""
    return [*_request_options(), *setting_options(METHODS.get("classifier", name))]


def _forget_command(name: str) -> Any:
    common = _request_options()

    def command(origins: Any, **values: Any) -> None:
        # a label may hold commas, so that only the model can tell where one ends
        tasks = [values["class_"] or [], *([task] for task in values["task"] or [])]
        data = load("erasure.requested:Data")(
            values["data"], values["images"], values["test_images"], values["shots"],
            tuple(filter(None, [values["missing"]])),
        )  # fmt: skip
        samples = _samples(values["samples"], values["random_share"], values["keep"])
        same = ("out", "workers", "seed", "quick", "mixed_precision", "report_to", "watch_every")
        asked = {
            **{key: values[key] for key in same}, **given_settings(values, common), "data": data,
            "samples": samples, "origins": origins,
        }  # fmt: skip
        what = values["model"], name, [task for task in tasks if task]
        if values["dry_run"]:
            print_forecast(load("erasure.foreseeing:foresee_forgetting")(*what, **asked))
            return
        _say_requests(load("erasure.forgetting:forget")(*what, **asked).folder)

    text = inspect.getdoc(inspect.getmodule(METHODS.get("classifier", name)))
    return built(name, command, forget_options(name), text)


def _say_requests(run: Path) -> None:
    """A line for each request: what went, the accuracies after it, and the time."""
    shape = load("erasure.files.records:RequestsShape")
    for request in load("erasure.files.records:read_record")(run / "requests.json", shape):
        what = ", ".join(request["classes"]) or f"{len(request['samples'])} training images"
        shown = [f"{k} {v:.3f}" for k, v in request.items() if k.startswith("Acc")]
        shown += [] if "Acc_f" in request else ["no test image of it, and so no Acc_f"]
        say(f"{what}: {', '.join(shown)}, {_time(request)}")


def _samples(file: Path | None, share: float, keep: Path | None) -> Any:
    """Which single images are asked for; SettingError for what does not go together."""
    if file is None and not share and keep is None:
        return ()
    read = load("erasure_datasets.sample_files:read_samples")
    kind = load("erasure.sample_requests:Samples")
    found = read(file) if file is not None else kind()
    kept = read(keep).names if keep is not None else ()
    return kind(found.names, found.labels, share, kept)


def _time(request: dict[str, Any]) -> str:
    seconds = request.get("seconds")
    return "time unknown" if seconds is None else f"{seconds:.0f} s"
