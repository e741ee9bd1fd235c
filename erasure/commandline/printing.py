"""What commands print: scores and tables, from the main process of a launch alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from erasure.commandline.options import load


def say(text: str) -> None:
    """Print, from the main process of a launch alone."""
    if load("erasure.training.processes:launched")().is_main_process:
        typer.echo(text)


def print_scores(record: dict[str, Any]) -> None:
    table = Table(title=f"protocol {record['protocol']}")
    others = {"un-erased": record["baseline"]}
    if record.get("retrained"):
        others["retrained"] = record["retrained"]
    for column in ("score", "value", "± s.e.", "95 %", "n", *others):
        table.add_column(column, justify="right")
    for name, score in record["scores"].items():
        table.add_row(
            name,
            f"{score['value']:.3f}",
            f"{score['stderr']:.3f}",
            "-" if score.get("low") is None else f"{score['low']:.3f} to {score['high']:.3f}",
            str(score["n"]),
            *(f"{own[name]['value']:.3f}" if name in own else "-" for own in others.values()),
        )
    if load("erasure.training.processes:launched")().is_main_process:
        _console().print(table)
        if "probe" in record:
            typer.echo(f"min_Acc, WC, WF10 and max_Acc_o are {record['probe']['note']}")
        parts = record.get("per_concept", {})
        if any(part.get("is_cut_by_budget") for part in (record, *parts.values())):
            typer.echo("cut short by its budget: with more time the rates may be higher")
        for name, reason in _left_out(record):
            typer.echo(f"{name} is left out: {reason}")


def print_table(rows: Sequence[Mapping[str, str]], *, least: int = 12) -> None:
    """Rows of the same columns, on the terminal.

    Where a column has less room than `least` letters, they stand one below the other.
    """
    if _console().width < least * len(rows[0]):
        for row in rows:
            typer.echo("\n".join(f"{key:>20}: {value}" for key, value in row.items()) + "\n")
        return
    table = Table()
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*row.values())
    _console().print(table)


def _console() -> Console:
    """One that prints names as they are: `[v1]` and `:cat:` are no styles."""
    return Console(markup=False, emoji=False)


def _left_out(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Scores, or classes, that there was nothing to measure on."""
    told = [(name, str(reason)) for name, reason in record.get("left_out", {}).items()]
    return told + [(name, "no test image") for name in record.get("without_images", [])]
