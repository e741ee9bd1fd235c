"""Commands on what a run made: `undo`, `export`, `push`, `report`, `compare` and `demo`."""

from pathlib import Path
from typing import Annotated

import typer

from erasure.commandline.options import BASE, CONTEXT, load
from erasure.commandline.printing import print_table
from erasure.errors import SettingError


def add_to(app: typer.Typer) -> None:
    """Put the commands into the program."""
    for command in (_undo, _export, _push, _report, _compare, _demo):
        app.command(command.__name__[1:], context_settings=CONTEXT)(command)


def _undo(
    run: Annotated[Path, typer.Argument(help="a run's folder")],
    concept: Annotated[list[str], typer.Option(help="what to give back")],
    out: Annotated[Path, typer.Option(help="the new run's folder")],
    base: Annotated[str | None, typer.Option(help=BASE)] = None,
) -> None:
    """Take requests back from a run of gs-lora or uce; what the others took stays taken."""
    load("erasure.undoing:undo")(run, out, concepts=concept, base=base)
    typer.echo(f"{out} written")


def _export(
    run: Annotated[Path, typer.Argument(help="a run's folder")],
    out: Annotated[Path, typer.Argument(help="the new folder")],
    to: Annotated[
        str,
        typer.Option(
            help="diffusers, single-file, text-encoder, lora, delta, vit, or a plug-in's form"
        ),
    ] = "diffusers",
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16")] = "float32",
    base: Annotated[str | None, typer.Option(help=BASE)] = None,
    layout: Annotated[
        str | None, typer.Option(help="of lora: diffusers (the default) or kohya")
    ] = None,
) -> None:
    """Write a run's model as a folder that plain diffusers opens, or only what changed."""
    load("erasure.exports.exporting:export")(
        run, out, to=to, dtype=dtype, base=base, layout=layout
    )  # fmt: skip
    typer.echo(f"{out} written ({to}, {dtype})")


def _push(
    out: Annotated[Path, typer.Argument(help="an export's folder")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face Hub")],
    private: Annotated[bool, typer.Option(help="if the repository is made now")] = False,
) -> None:
    """Upload an export to the Hugging Face Hub; the token is HF_TOKEN or `hf auth login`'s."""
    typer.echo(load("erasure.exports.pushing:push")(out, repo, private=private))


def _report(
    runs: Annotated[list[Path], typer.Argument(help="the runs' folders, or a sweep's")],
    out: Annotated[Path, typer.Option(help="the page, ending in .html")] = Path("report.html"),
) -> None:
    """Write one page about runs, with scores, pictures, attacks and cost, side by side.

    The same figures go into .json, .csv and .md files beside it.
    """
    for file in load("evaluation.reports.reporting:report")(runs, out):
        typer.echo(f"{file} written")


def _compare(
    runs: Annotated[list[Path], typer.Argument(help="the runs' folders, two or more")],
    protocol: Annotated[
        str | None, typer.Option(help="whose scores, where the runs have several")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="also write it as a .md file")] = None,
) -> None:
    """Put runs that were judged alike into one table, the best first; unlike ones are refused."""
    print_table(load("evaluation.reports.comparing:compare")(runs, protocol=protocol, out=out))


def _demo(
    runs: Annotated[list[Path], typer.Argument(help="the runs' folders")],
    port: Annotated[int, typer.Option(help="on 127.0.0.1")] = 7860,
    criterion: Annotated[
        str, typer.Option(help="what an attack must show, as for `erasure attack`")
    ] = "judge",
    space: Annotated[
        Path | None,
        typer.Option(help="write a Hugging Face Space of one run there, and serve none"),
    ] = None,
) -> None:
    """Serve a page that draws before and after from the same noise, on this machine only."""
    if space is not None:
        if len(runs) > 1:
            raise SettingError(f"space is of one run; got {len(runs)}.")
        typer.echo(f"{load('evaluation.demo.space:write_space')(runs[0], space)} written")
        return
    load("evaluation.demo.demo:demo")(runs, port=port, criterion=criterion)
