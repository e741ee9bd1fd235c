"""The command line: a thin, lazy table over the public functions.

A method's options come from its dataclass.
"""

import importlib
import inspect
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from erasure.commands import CONTEXT, LazyGroup, built, given_settings, option, setting_options
from erasure.config import module_names
from erasure.errors import ErasureError, SettingError

INTERRUPTED = 130


def _load(where: str) -> Any:
    module, name = where.split(":")
    return getattr(importlib.import_module(module), name)


class _MethodGroup(LazyGroup):
    """`erasure erase METHOD`."""

    noun = "method"

    def list_commands(self, ctx: Any) -> list[str]:
        return _method_names("diffusion")

    def build(self, name: str) -> Any:
        return _erase_command(name)


class _AttackGroup(LazyGroup):
    """`erasure attack ATTACK`."""

    noun = "attack"

    def list_commands(self, ctx: Any) -> list[str]:
        return [*_attack_names(), "all"]

    def build(self, name: str) -> Any:
        return _attack_command(name)


def _method_names(kind: str) -> list[str]:
    """The registry's names, without the torch that importing it costs."""
    return module_names(Path(__file__).parent / "methods" / kind)


def _attack_names() -> list[str]:
    return module_names(Path(__file__).parents[1] / "evaluation" / "attacks")


def _common_options() -> list[inspect.Parameter]:
    options: list[tuple[str, Any, Any, str]] = [
        ("concept", list[str], ..., "what to erase; may be given several times"),
        (
            "model",
            str,
            "pocket",
            "pocket, a diffusers folder, a Hub id, or a .safetensors file with --config",
        ),
        ("out", Path, ..., "the run's folder"),
        ("kind", str | None, None, "style, object, person or unsafe: for free-text concepts"),
        ("anchor", str | None, None, "what to draw instead"),
        ("config", Path | None, None, "component configs for a single .safetensors file"),
        ("seed", int, 0, "seed of everything random"),
        ("mixed_precision", str, "no", "no or bf16"),
        ("report_to", str | None, None, "tensorboard, wandb or another accelerate tracker"),
        ("quick", bool, False, "the method's smoke-run values"),
    ]
    return [option(name, kind, default, text) for name, kind, default, text in options]


def _erase_command(name: str) -> Any:
    """A command with the common options and one option per field of the method's dataclass."""
    method = _load("erasure.registry:METHODS").get("diffusion", name)
    common = _common_options()

    def command(**values: Any) -> None:
        erase = _load("erasure.erasing:erase")
        result = erase(
            values["model"], name, values["concept"], out=values["out"], kind=values["kind"],
            anchor=values["anchor"], config=values["config"], seed=values["seed"],
            quick=values["quick"], mixed_precision=values["mixed_precision"],
            report_to=values["report_to"], **given_settings(values, common),
        )  # fmt: skip
        record = json.loads((result.folder / "config.json").read_text())
        typer.echo(
            f"{result.folder}: {len(result.edit.tensors)} tensors changed, "
            f"{record.get('seconds', 0):.0f} s"
        )

    text = inspect.getdoc(inspect.getmodule(method))
    return built(name, command, [*common, *setting_options(method)], text)


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
            "what counts as drawn: judge, judge=FOLDER, clip, clip=NAME:PRETRAINED, "
            "file.py:function, or several joined by +",
        ),
        ("prompts", int, 16, "prompts per concept"),
        ("seeds", str, "188,288", "comma-separated: 188,288,588,688,888"),
        ("budget", float | None, None, "seconds at most for each concept"),
        ("seed", int, 0, "seed of the search"),
        ("quick", bool, False, "the attack's smoke-run values"),
    ]  # fmt: skip
    common = [run, *(option(*line) for line in texts)]
    kind = None if name == "all" else _load("evaluation.attacks:find_attack")(name)

    def command(**values: Any) -> None:
        options = {key: values[key] for key in ("criterion", "prompts", "budget", "seed", "quick")}
        options |= {"concepts": values["concept"], "seeds": _numbers(values["seeds"])}
        if name == "all":
            record = _load("evaluation.attacking:attack_all")(values["run"], **options)
        else:
            record = _load("evaluation.attacking:attack")(
                values["run"], name, **options, **given_settings(values, common)
            )
        _print_scores(record)
        typer.echo(f"{values['run'] / 'attacks' / name}.json written, {record['seconds']:.0f} s")

    text = "Every attack in turn, and the worst case of each prompt."
    if kind is None:
        return built(name, command, common, text)
    text = inspect.getdoc(inspect.getmodule(kind))
    return built(name, command, [*common, *setting_options(kind)], text)


app = typer.Typer(
    add_completion=False, no_args_is_help=True, context_settings=CONTEXT, rich_markup_mode=None,
    help="Take a concept out of a text-to-image model, prove that it is gone, hand the model back.",
)  # fmt: skip
erase_app = typer.Typer(
    cls=_MethodGroup, no_args_is_help=True, context_settings=CONTEXT, rich_markup_mode=None
)
app.add_typer(
    erase_app,
    name="erase",
    help="Erase concepts: erasure erase METHOD --concept NAME --out FOLDER.",
)


@erase_app.callback()
def _erase() -> None:
    """Erase concepts from a text-to-image model; `METHOD --help` lists a method's settings."""


attack_app = typer.Typer(
    cls=_AttackGroup, no_args_is_help=True, context_settings=CONTEXT, rich_markup_mode=None
)
app.add_typer(
    attack_app,
    name="attack",
    help="Try to bring an erased concept back: erasure attack ATTACK RUN.",
)


@attack_app.callback()
def _attack() -> None:
    """Attack a run's model; `ATTACK --help` lists an attack's settings, `all` runs every one."""


@app.command(context_settings=CONTEXT)
def evaluate(
    run: Annotated[Path | None, typer.Argument(help="a run's folder")] = None,
    model: Annotated[str | None, typer.Option(help="an un-erased model instead of a run")] = None,
    out: Annotated[
        Path | None, typer.Option(help="where an un-erased model's images and scores go")
    ] = None,
    protocol: Annotated[str, typer.Option(help="how to judge")] = "pocket",
    subset: Annotated[
        int | None,
        typer.Option(help="judge only this many images, all of the target's first seed in them"),
    ] = None,
    seeds: Annotated[str, typer.Option(help="comma-separated: 188,288,588,688,888")] = "188,288",
    concept: Annotated[
        list[str] | None, typer.Option(help="score these targets instead of the run's own")
    ] = None,
) -> None:
    """Draw a protocol's images with a run's model, judge them and print the scores.

    The un-erased model's scores stand beside them.
    """
    record = _load("evaluation.evaluate:evaluate")(
        run,
        model=model,
        out=out,
        protocol=protocol,
        subset=subset,
        seeds=_numbers(seeds),
        concepts=concept,
    )
    _print_scores(record)


@app.command(context_settings=CONTEXT)
def export(
    run: Annotated[Path, typer.Argument(help="a run's folder")],
    out: Annotated[Path, typer.Argument(help="the new folder")],
    to: Annotated[str, typer.Option(help="diffusers, text-encoder or delta")] = "diffusers",
    dtype: Annotated[str, typer.Option(help="float32 or float16")] = "float32",
) -> None:
    """Write a run's model as a folder that plain diffusers opens, or only what changed."""
    _load("erasure.exporting:export")(run, out, to=to, dtype=dtype)
    typer.echo(f"{out} written ({to}, {dtype})")


@app.command(context_settings=CONTEXT)
def report(
    runs: Annotated[list[Path], typer.Argument(help="the runs' folders")],
    out: Annotated[Path, typer.Option(help="the page, ending in .html")] = Path("report.html"),
) -> None:
    """Write one page about runs, with scores, pictures, attacks and cost, side by side.

    The same figures go into .json, .csv and .md files beside it.
    """
    for file in _load("evaluation.report:report")(runs, out):
        typer.echo(f"{file} written")


@app.command(context_settings=CONTEXT)
def demo(
    runs: Annotated[list[Path], typer.Argument(help="the runs' folders")],
    port: Annotated[int, typer.Option(help="on 127.0.0.1")] = 7860,
) -> None:
    """Serve a page that draws before and after from the same noise, on this machine only."""
    _load("evaluation.demo:demo")(runs, port=port)


@app.command("list", context_settings=CONTEXT)
def list_(
    what: Annotated[str, typer.Argument(help="methods, models, concepts, attacks or protocols")],
    model: Annotated[str, typer.Option(help="whose concepts")] = "pocket",
) -> None:
    """List methods, models, a model's concepts, attacks, or protocols."""
    if what == "methods":
        lines = _method_names("diffusion")
    elif what == "models":
        lines = [
            "pocket",
            "(any Stable Diffusion 1.x or 2.x: a diffusers folder, a Hub id, a .safetensors file)",
        ]
    elif what == "protocols":
        lines = module_names(Path(__file__).parents[1] / "evaluation" / "protocols")
    elif what == "attacks":
        lines = _attack_names()
    elif what == "concepts":
        folder = Path(__file__).parent / "models" / "pocket" if model == "pocket" else Path(model)
        if not (folder / "concepts.json").is_file():
            raise SettingError(f"{model} has no list of concepts; any text can be erased from it.")
        lines = _load("erasure_datasets.concept:Catalogue").load(folder / "concepts.json").targets()
    else:
        raise SettingError(
            f"list takes methods, models, concepts, attacks or protocols; got {what!r}."
        )
    typer.echo("\n".join(lines))


@app.command(context_settings=CONTEXT)
def quickstart(
    out: Annotated[Path, typer.Option(help="the run's folder")] = Path("runs/quickstart"),
    concept: Annotated[str, typer.Option(help="what to erase from the built-in model")] = "cat",
) -> None:
    """Erase a concept from the built-in model, judge it, export it, write a page with pictures.

    It takes minutes on a CPU.
    """
    facts = _load("evaluation.quickstart:quickstart")(out, concept)
    _print_scores(facts.record)
    for name, path in facts.places.items():
        typer.echo(f"{name:>10}: {path}")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise SettingError(
            f"seeds must be whole numbers separated by commas; got {text!r}."
        ) from None


def _print_scores(record: dict[str, Any]) -> None:
    table = Table(title=f"protocol {record['protocol']}")
    for column in ("score", "value", "± s.e.", "n", "un-erased"):
        table.add_column(column, justify="right")
    for name, score in record["scores"].items():
        base = record["baseline"].get(name)
        table.add_row(
            name,
            f"{score['value']:.3f}",
            f"{score['stderr']:.3f}",
            str(score["n"]),
            f"{base['value']:.3f}" if base else "-",
        )
    Console().print(table)


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    command = typer.main.get_command(app)
    try:
        code = command.main(standalone_mode=False)
    except ErasureError as error:
        sys.exit(_complain(str(error)))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        message = getattr(
            error, "format_message", None
        )  # click's own usage errors, wherever typer keeps click
        if message is None:
            raise
        sys.exit(_complain(message()))
    if code == INTERRUPTED:  # typer answers Ctrl-C with this code, in silence
        print("erasure: interrupted; run the same command again to go on.", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> int:
    print("erasure: " + " ".join(message.split()), file=sys.stderr)
    return 2
