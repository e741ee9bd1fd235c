"""`erasure apply`: several runs of one base as one."""

from pathlib import Path
from typing import Annotated

import typer

from erasure.commandline.options import BASE, CONTEXT, load


def add_to(app: typer.Typer) -> None:
    """Give the program its command."""
    app.command(context_settings=CONTEXT)(apply)


def apply(
    runs: Annotated[list[Path], typer.Argument(help="folders of runs of one base, two or more")],
    out: Annotated[Path, typer.Option(help="the new run's folder")],
    overlap: Annotated[
        str,
        typer.Option(
            help="what to do where several runs changed the same elements: refuse, or add their "
            "changes, which is no erasure that any of them was made for"
        ),
    ] = "refuse",
    base: Annotated[str | None, typer.Option(help=BASE)] = None,
) -> None:
    """Put the edits of several runs of one base together into one run.

    To erase from what a run left, name it instead: erasure erase METHOD --model RUN.
    """
    load("erasure.merging:apply")(runs, out, overlap=overlap, base=base)
    typer.echo(f"{out} written")
