"""The commands that stand for a method or an attack: one option per field of its dataclass.

Everything heavy is named by a string and imported when its command runs.
"""

import importlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from erasure.commandline.forecast import print_forecast
from erasure.commandline.options import (
    LazyGroup,
    built,
    given_settings,
    option,
    setting_options,
    shared_options,
    with_options,
)
from erasure.config import EARLIER
from erasure.errors import SettingError
from erasure.registry import ATTACKS, METHODS

BASE = "where the run's base model is now, if it has moved"
DRY_RUN = "check everything, try a few steps, say what it would take, and write nothing"
GOLD = "a model that never knew the concept, to compare with: pocket, a folder, a run of erase gold"


def load(where: str) -> Any:
    module, name = where.split(":")
    return getattr(importlib.import_module(module), name)


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


class AttackGroup(LazyGroup):
    """`erasure attack ATTACK`."""

    noun = "attack"

    def list_commands(self, ctx: Any) -> list[str]:
        return [*ATTACKS.names(), "all"]

    def build(self, name: str) -> Any:
        return _attack_command(name)


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


def _common_options() -> list[inspect.Parameter]:
    options: list[tuple[str, Any, Any, str]] = [
        ("concept", list[str], ..., "what to erase; may be given several times"),
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
        ("config", Path | None, None, "component configs for a single .safetensors file"),
        ("revision", str | None, None, "branch, tag or commit of a Hub id"),
        ("base", str | None, None, BASE),
        ("seed", int, 0, "seed of everything random"),
        ("report_to", str | None, None, "tensorboard, wandb or another accelerate tracker"),
        ("sample_every", int, 0, "steps between pictures for that tracker; 0 for none"),
        ("quick", bool, False, "the method's smoke-run values"),
        ("dry_run", bool, False, DRY_RUN),
    ]  # fmt: skip
    return [option(name, kind, default, text) for name, kind, default, text in options]


def _erase_command(name: str) -> Any:
    """A command with the common options and one option per field of the method's dataclass."""
    method = METHODS.get("diffusion", name)
    common, hardware = _common_options(), load("erasure.training.hardware:Hardware")

    def command(origins: Any, **values: Any) -> None:
        repeats = _repeated(values.pop("from_"), values, origins)
        is_dry = values.pop("dry_run")
        asked = {
            **{entry.name: values[entry.name] for entry in common[2:] if entry.name in values},
            **given_settings(values, common), "origins": origins, "repeats": repeats,
        }  # fmt: skip
        if is_dry:
            foresee = load("erasure.foreseeing:foresee_erasure")
            print_forecast(foresee(values["model"], name, values["concept"], **asked))
            return
        result = load("erasure.erasing:erase")(values["model"], name, values["concept"], **asked)
        record = json.loads((result.folder / "config.json").read_text())
        say(
            f"{result.folder}: {len(result.edit.shapes())} tensors changed, "
            f"{record.get('seconds', 0):.0f} s"
        )

    text = inspect.getdoc(inspect.getmodule(method))
    options = [*common, *setting_options(hardware), *setting_options(method)]
    return built(name, command, options, text, has_earlier=True)


def _repeated(run: Path | None, values: dict[str, Any], origins: dict[str, Any]) -> Path | None:
    """The earlier run; SettingError for `--quick` with it, which could change nothing."""
    if run is not None and values["quick"] and origins.get("quick") != EARLIER:
        raise SettingError(f"quick has no effect beside from, since {run} gives every setting.")
    return run


def _forget_command(name: str) -> Any:
    """A command with the options of every request and one per field of the method's dataclass."""
    method = METHODS.get("classifier", name)
    texts: list[tuple[str, Any, Any, str]] = [
        ("class_", list[str] | None, None, "what to forget, in one request; several with commas"),
        ("task", list[str] | None, None, "one request of several, in turn: cat,dog"),
        (
            "samples",
            Path | None,
            None,
            "a file of single training images to forget, one a line",
        ),
        ("model", str, "pocket-vit", "pocket-vit, timm:NAME, a classifier's folder or a Hub id"),
        ("out", Path, ..., "the run's folder"),
        ("data", str, "auto", "images: the model's own, an image folder, or hf:NAME"),
        ("images", int, 64, "training images per class"),
        ("test_images", int, 32, "held-out images per class"),
        ("shots", int, 0, "if above 0, only so many training images per class"),
        ("missing", str, "", "kept classes without training images, with commas"),
        ("watch_every", int, 10, "steps between looks at a probe; 0 for none"),
        ("seed", int, 0, "seed of everything random"),
        ("mixed_precision", str, "no", "no or bf16"),
        ("report_to", str | None, None, "tensorboard, wandb or another accelerate tracker"),
        ("quick", bool, False, "the method's smoke-run values"),
        ("dry_run", bool, False, DRY_RUN),
    ]
    common = [option(*line) for line in texts]

    def command(origins: Any, **values: Any) -> None:
        # a label may hold commas, so that only the model can tell where one ends
        tasks = [values["class_"] or [], *([task] for task in values["task"] or [])]
        forgetting = importlib.import_module("erasure.forgetting")
        data = forgetting.Data(
            values["data"], values["images"], values["test_images"], values["shots"],
            tuple(filter(None, [values["missing"]])),
        )  # fmt: skip
        file, samples = values["samples"], ()
        if file is not None:
            samples = load("erasure_datasets.classes:read_samples")(file)
        same = ("out", "seed", "quick", "mixed_precision", "report_to", "watch_every")
        asked = {key: values[key] for key in same} | given_settings(values, common)
        begin = load("erasure.foreseeing:foresee_forgetting") if values["dry_run"] else None
        result = (begin or forgetting.forget)(
            values["model"], name, [task for task in tasks if task], data=data,
            samples=samples, origins=origins, **asked,
        )  # fmt: skip
        if begin:
            print_forecast(result)
            return
        records = importlib.import_module("erasure.files.records")
        file = result.folder / "requests.json"
        for request in records.read_record(file, records.RequestsShape):
            what = ", ".join(request["classes"]) or f"{len(request['samples'])} training images"
            shown = [f"{k} {v:.3f}" for k, v in request.items() if k.startswith("Acc")]
            shown += [] if "Acc_f" in request else ["no test image of it, and so no Acc_f"]
            say(f"{what}: {', '.join(shown)}, {_time(request)}")

    text = inspect.getdoc(inspect.getmodule(method))
    return built(name, command, [*common, *setting_options(method)], text)


def _time(request: dict[str, Any]) -> str:
    seconds = request.get("seconds")
    return "time unknown" if seconds is None else f"{seconds:.0f} s"


def _attack_command(name: str) -> Any:
    """A command with the options of every attack and one per field of this one's dataclass."""
    run = inspect.Parameter(
        "run", inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[Path, typer.Argument(help="a run's folder")],
    )  # fmt: skip
    texts: list[tuple[str, Any, Any, str]] = [
        ("concept", list[str] | None, None, "attack these concepts instead of the run's own"),
        (
            "criterion", str, "judge",
            "what counts as drawn: judge, judge=FOLDER, clip, clip=NAME:PRETRAINED, clip=FOLDER, "
            "nudenet=PRESET, file.py:function, or several joined by +",
        ),
        ("prompts", str, "16", "prompts per concept: how many, a file of them, or FILE:N"),
        ("seeds", str, "188,288", "comma-separated: 188,288,588,688,888"),
        ("budget", float | None, None, "seconds at most for each concept; of all attacks, for all"),
        ("seed", int, 0, "seed of the search"),
        ("quick", bool, False, "the attack's smoke-run values"),
        ("base", str | None, None, BASE),
        ("gold", str | None, None, GOLD),
    ]  # fmt: skip
    common = [run, *(option(*line) for line in texts)]
    kind = None if name == "all" else ATTACKS.get(name)

    def command(origins: Any, **values: Any) -> None:
        same = ("criterion", "prompts", "budget", "seed", "quick", "base", "gold")
        options = {key: values[key] for key in same}
        options |= {"concepts": values["concept"], "seeds": numbers(values["seeds"])}
        if name == "all":
            record = load("evaluation.attacking.every_attack:attack_all")(values["run"], **options)
            for left, reason in record["left_out"].items():
                say(f"{left} was left out: {reason}")
        else:
            record = load("evaluation.attacking.attacking:attack")(
                values["run"], name, **options, **given_settings(values, common), origins=origins
            )
        print_scores(record)
        say(f"{values['run'] / 'attacks' / name}.json written, {record['seconds']:.0f} s")

    text = "Every attack in turn, and the worst case of each prompt."
    if kind is None:
        return built(name, command, common, text)
    text = inspect.getdoc(inspect.getmodule(kind))
    return built(name, command, [*common, *setting_options(kind)], text)


def evaluate_command() -> Any:
    """`erasure evaluate`, with the settings of the protocols among its options."""
    run = inspect.Parameter(
        "run", inspect.Parameter.KEYWORD_ONLY, default=None,
        annotation=Annotated[Path | None, typer.Argument(help="a run's folder")],
    )  # fmt: skip
    texts: list[tuple[str, Any, Any, str]] = [
        ("model", str | None, None, "an un-erased model instead of a run"),
        ("images", Path | None, None, "a folder of images that any tool drew, instead of a run"),
        ("out", Path | None, None, "where the scores of --model or --images go"),
        ("protocol", str | None, None, "how to judge; what fits the run if not given"),
        ("concept", list[str] | None, None, "score these targets instead of the run's own"),
        ("seeds", str | None, None, "comma-separated, of 188,288,588,688,888; all, for pocket two"),
        (
            "subset", str | None, None,
            "pocket: judge only this many images, all of the target's first seed in them; "
            "unlearncanvas: 10x5 for ten styles and five objects beside the targets",
        ),
        (
            "reference", Path | None, None,
            "what to compare with: a retrained classifier's run; unlearncanvas: the folder of the "
            "un-erased model's own evaluation, which is drawn otherwise",
        ),
        ("base", str | None, None, BASE),
        ("gold", str | None, None, GOLD),
    ]  # fmt: skip
    common = [run, *(option(*line) for line in texts)]

    def command(_origins: Any, **values: Any) -> None:
        seeds, own = values["seeds"], ("run", "concept", "seeds")
        record = load("evaluation.evaluating:evaluate")(
            values["run"], concepts=values["concept"],
            seeds=None if seeds is None else numbers(seeds),
            **{entry.name: values[entry.name] for entry in common if entry.name not in own},
            **given_settings(values, common),
        )  # fmt: skip
        print_scores(record)

    settings = [
        load("evaluation.unlearncanvas.settings:UnlearnCanvasSettings"),
        load("evaluation.prompts.settings:PromptsSettings"),
    ]
    text = """Draw a protocol's images with a run's model, judge them and print the scores.

    The un-erased model's scores stand beside them. Images of other tools are judged as they are.
    """
    return with_options(command, [*common, *shared_options(settings)], inspect.cleandoc(text))


def numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise SettingError(
            f"seeds must be whole numbers separated by commas; got {text!r}."
        ) from None


def say(text: str) -> None:
    """Print, from the main process of a launch alone."""
    if load("erasure.training.processes:launched")().is_main_process:
        typer.echo(text)


def print_scores(record: dict[str, Any]) -> None:
    table = Table(title=f"protocol {record['protocol']}")
    for column in ("score", "value", "± s.e.", "95 %", "n", "un-erased"):
        table.add_column(column, justify="right")
    for name, score in record["scores"].items():
        base = record["baseline"].get(name)
        table.add_row(
            name,
            f"{score['value']:.3f}",
            f"{score['stderr']:.3f}",
            "-" if score.get("low") is None else f"{score['low']:.3f} to {score['high']:.3f}",
            str(score["n"]),
            f"{base['value']:.3f}" if base else "-",
        )
    if load("erasure.training.processes:launched")().is_main_process:
        Console().print(table)
        for name, reason in _left_out(record):
            typer.echo(f"{name} is left out: {reason}")


def print_table(rows: Sequence[Mapping[str, str]]) -> None:
    """Rows of the same columns, on the terminal; narrow ones stand one below the other."""
    if Console().width < 12 * len(rows[0]):
        for row in rows:
            typer.echo("\n".join(f"{key:>20}: {value}" for key, value in row.items()) + "\n")
        return
    table = Table()
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


def _left_out(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Scores, or classes, that there was nothing to measure on."""
    told = [(name, str(reason)) for name, reason in record.get("left_out", {}).items()]
    return told + [(name, "no test image") for name in record.get("without_images", [])]
