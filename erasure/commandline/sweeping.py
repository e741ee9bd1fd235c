"""`erasure sweep`: every method on every concept with every seed, judged and attacked."""

from pathlib import Path
from typing import Annotated, Any

import typer

from erasure.commandline.options import CONTEXT, load, seeds_of
from erasure.commandline.printing import print_table
from erasure.errors import RunError, SettingError


def add_to(app: typer.Typer) -> None:
    """Give the program its command."""
    app.command(context_settings=CONTEXT)(sweep)


def sweep(
    out: Annotated[Path, typer.Option(help="the sweep's folder")],
    grid: Annotated[
        Path | None,
        typer.Argument(help="a TOML file with the grid; the options below go before it"),
    ] = None,
    methods: Annotated[str | None, typer.Option(help="with commas: uce,esd")] = None,
    concepts: Annotated[
        str | None, typer.Option(help="with commas; cat+dog are erased together: bear,cat+dog")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="the same, of a classifier that is to forget them")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="with commas: 0,1,2")] = None,
    attacks: Annotated[str | None, typer.Option(help="with commas; none if not given")] = None,
    model: Annotated[
        str | None, typer.Option(help="as for erase and forget; pocket or pocket-vit if not given")
    ] = None,
    evaluate: Annotated[bool | None, typer.Option("--evaluate/--no-evaluate")] = None,
    quick: Annotated[
        bool | None,
        typer.Option(
            "--quick/--no-quick", help="smoke-run values; of the protocol pocket, 96 images"
        ),
    ] = None,
    on: Annotated[str, typer.Option(help="local: this machine; ray: a Ray cluster")] = "local",
    jobs: Annotated[
        int | None, typer.Option(help="local: cells at once; one per GPU, or one, if not given")
    ] = None,
    cpus: Annotated[
        int | None,
        typer.Option(help="cores for each cell; local: its share if not given; ray: one"),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(help="ray: GPUs for each cell, as 1 or 0.5; one if there are any"),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="ray: the cluster's, or auto for the one of this machine")
    ] = None,
    retries: Annotated[
        int | None, typer.Option(help="ray: how often to begin again when a node is lost; 3")
    ] = None,
) -> None:
    """Run every method on every concept with every seed, each as ordinary commands in a run of its
    own.

    The same command goes on after an end of any kind: what is done is passed over, what was killed
    resumes, what failed is tried again. More methods, concepts, seeds or attacks may be added to a
    finished sweep. `erasure report OUT` shows it.
    """
    where = load("evaluation.sweeping.sweep:Where")(on, jobs, cpus, gpus, address, retries)
    given = {} if grid is None else load("evaluation.sweeping.grid:read_grid")(grid)
    lists = {"methods": methods, "attacks": attacks, "concepts": concepts, "classes": classes}
    given |= {name: _listed(name, text) for name, text in lists.items() if text is not None}
    numbers = None if seeds is None else [*seeds_of(seeds)]
    values = {"seeds": numbers, "model": model, "evaluate": evaluate, "quick": quick}
    given |= {name: value for name, value in values.items() if value is not None}
    asked = load("evaluation.sweeping.grid:make_grid")(given, str(grid or "the command line"))
    _show(out, load("evaluation.sweeping.sweep:sweep")(asked, out, where))


def _show(out: Path, record: Any) -> None:
    """Print a sweep's table; RunError, after its failures, if a cell failed."""
    print_table(load("evaluation.sweeping.summary:rows")(out, record), least=8)
    failed = load("evaluation.sweeping.summary:failures")(record)
    for line in failed:
        typer.echo(line)
    if failed:
        raise RunError(
            f"{len(failed)} of {len(record['cells'])} cells failed, as listed above; their .log "
            f"files in {out} have all that they said. The same command tries them again."
        )


def _listed(name: str, text: str) -> list[Any]:
    """The names in a text with commas; of concepts and classes, those with a plus are a list."""
    found = [part.strip() for part in text.split(",")]
    if not all(found):
        raise SettingError(f"{name} must be names with commas; got {text!r}.")
    if name not in ("concepts", "classes"):
        return found
    entries = [[one.strip() for one in part.split("+")] for part in found]
    if not all(all(entry) for entry in entries):
        raise SettingError(f"{name} must be names with commas and plus signs; got {text!r}.")
    return [entry if len(entry) > 1 else entry[0] for entry in entries]
