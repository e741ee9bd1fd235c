"""Commands that change or compare how a model is written: `convert` and `diff`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from erasure.commandline.options import CONTEXT, load

ROWS = 40  # of a table on the terminal


def add_to(app: typer.Typer) -> None:
    """Put the commands into the program."""
    app.command("convert", context_settings=CONTEXT)(_convert)
    app.command("diff", context_settings=CONTEXT)(_diff)


def _convert(
    model: Annotated[
        str, typer.Argument(help="a built-in one, a diffusers folder, a Hub id, a .safetensors")
    ],
    out: Annotated[Path, typer.Argument(help="the new folder")],
    to: Annotated[str, typer.Option(help="diffusers or single-file")],
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16")] = "float32",
    config: Annotated[
        Path | None, typer.Option(help="component configs for a single .safetensors file")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit of a Hub id")] = None,
) -> None:
    """Write a model, un-edited, as a diffusers folder or as one .safetensors file."""
    load("erasure.exports.converting:convert")(
        model, out, to=to, dtype=dtype, config=config, revision=revision
    )
    typer.echo(f"{out} written ({to}, {dtype})")


def _diff(
    a: Annotated[str, typer.Argument(help="a model, a run or an export")],
    b: Annotated[str, typer.Argument(help="what it is compared with")],
    config: Annotated[
        Path | None, typer.Option(help="component configs for a single .safetensors file")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="the model that a run, delta or adapters belong to")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="a .json, .csv or .md with all of it")] = None,
) -> None:
    """Tell which tensors two models differ in, and how much: relative L2, largest, share.

    Models, runs and exports in any layout. The exit code is 0 whether they differ or not, and 2
    for what cannot be read.
    """
    found = load("erasure.comparing.diffing:diff")(a, b, config=config, base=base, out=out)
    _print(found)
    if out is not None:
        typer.echo(f"{out} written")


def _print(found: Any) -> None:
    for line in found.told():
        typer.echo(line)
    if not found.moved:
        return
    differences = "erasure.comparing.differences"
    rows = [load(f"{differences}:COLUMNS"), *map(load(f"{differences}:row"), found.moved[:ROWS])]
    for *figures, name in rows:  # no frame: names are long, and lines are for grep
        typer.echo("".join(f"{figure:>12}" for figure in figures) + f"  {name}")
    if len(found.moved) > ROWS:
        typer.echo(f"and {len(found.moved) - ROWS} more; --out FILE.csv has all.")
