"""The cells of a sweep: each the ordinary commands of one run, with a record of how they went.

OUT/sweep.json                       the grid and all cells
OUT/METHOD/CONCEPT/seed-N/           a run, as `erasure erase` makes it
OUT/METHOD/CONCEPT/seed-N.json       its cell's record, written where it runs
OUT/METHOD/CONCEPT/seed-N.log        what its commands said
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from erasure.errors import ErasureError, RunError, SettingError
from erasure.files.naming import slug
from erasure.files.records import CellShape, StepShape, SweepShape, read_record
from erasure.files.storage import write_json
from erasure.inputs import changed_inputs
from erasure.training.run_folder import run_record
from evaluation.sweeping.grid import Grid
from evaluation.sweeping.options import words

RECORD = "sweep.json"
REMEDY = "remove it, and what it tells of is looked up again"
State = Literal["missing", "running", "done", "failed"]


def cells_of(grid: Grid, plugins: Sequence[str] = ()) -> list[CellShape]:
    """Every cell, with nothing done; `plugins` are files that each command loads.

    SettingError if two would have one folder.
    """
    found = [
        _cell(grid, method, concepts, seed, plugins) for method, concepts, seed in grid.places()
    ]
    seen = dict[str, CellShape]()
    for cell in found:
        other = seen.setdefault(cell["name"].casefold(), cell)  # disks that know no case
        if other is not cell:
            raise SettingError(
                f"two cells of the sweep would be called {cell['name']}; name each method, concept "
                "and seed once."
            )
    return found


def _cell(
    grid: Grid, method: str, concepts: Sequence[str], seed: int, plugins: Sequence[str]
) -> CellShape:
    name = f"{method}/{slug('+'.join(concepts))}/seed-{seed}"
    loaded = [f"--plugin={file}" for file in plugins]
    commands = [[*_erasing(grid, method, concepts), f"--seed={seed}", "--out", name]]
    if grid.evaluate:
        commands.append(["evaluate", name, *words(grid.evaluation)])
    quick = ["--quick"] * grid.quick
    commands += [["attack", a, name, *words(grid.attack[a]), *quick] for a in grid.attacks]
    steps: list[StepShape] = [{"command": [*loaded, *c], "state": "missing"} for c in commands]
    return {"name": name, "method": method, "concepts": [*concepts], "seed": seed, "steps": steps}


def _erasing(grid: Grid, method: str, concepts: Sequence[str]) -> list[str]:
    options: dict[str, Any] = dict(grid.settings[method])
    quick = ["--quick"] * grid.quick
    if grid.of_classes:
        asked = words({"class_": ",".join(concepts), "model": grid.model})
        return ["forget", method, *asked, *words(options), *quick]
    for word in ("kind", "anchor"):
        if told := [grid.told[name][word] for name in concepts if word in grid.told.get(name, {})]:
            options[word] = told
    asked = words({"concept": [*concepts], "model": grid.model})
    return ["erase", method, *asked, *words(options), *quick]


def what(step: StepShape) -> str:
    """A step's command in a word or two: erase, evaluate, or its attack's name."""
    plain = [word for word in step["command"] if not word.startswith("--plugin=")]
    return plain[1] if plain[0] == "attack" else plain[0]


def state_of(cell: CellShape) -> State:
    """What all of a cell's steps amount to."""
    states = {step["state"] for step in cell["steps"]}
    for state in ("running", "failed", "missing"):
        if state in states:
            return state
    return "done"


def record_file(out: Path, name: str) -> Path:
    """Where a cell's record lies."""
    return out / f"{name}.json"


def read_cell(out: Path, cell: CellShape) -> CellShape:
    """The cell with what its record knows of those same commands; as it is, where there is none."""
    file = record_file(out, cell["name"])
    if not file.is_file():
        return cell
    held = {tuple(s["command"]): s for s in read_record(file, CellShape, remedy=REMEDY)["steps"]}
    return {**cell, "steps": [held.get(tuple(s["command"]), s) for s in cell["steps"]]}


def is_finished(out: Path, cell: CellShape, step: StepShape) -> bool:
    """Whether a step is done, what it left is still there, and the files that it read are as then.

    Where they are not, the command itself says so.
    """
    run = out / cell["name"]
    if step["state"] != "done" or not (run / step.get("file", "edit.json")).is_file():
        return False
    try:
        return what(step) not in ("erase", "forget") or not changed_inputs(run_record(run))
    except ErasureError:
        return False


def write_sweep(out: Path, grid: dict[str, Any], cells: Sequence[CellShape]) -> None:
    """sweep.json, with each cell's state beside its steps."""
    told = [{**cell, "state": state_of(cell)} for cell in cells]
    write_json(out / RECORD, {"grid": grid, "cells": told})


def read_sweep(out: Path) -> SweepShape:
    """What sweep.json says; RunError where it is damaged."""
    return read_record(out / RECORD, SweepShape, remedy="start the same sweep again")


def refuse_another(out: Path, cells: Sequence[CellShape]) -> None:
    """RunError if the folder holds another sweep, or other things; a sweep may grow.

    Each cell that is there must be among the new ones, and each of its commands among the new.
    """
    if not (out / RECORD).is_file():
        others = [entry.name for entry in out.iterdir() if not entry.name.startswith(".")] if (
            out.is_dir()
        ) else []  # fmt: skip
        if others:
            raise RunError(
                f"out must be a new folder or a sweep's; {out} holds other things, as {others[0]}."
            )
        return
    asked = {cell["name"]: [step["command"] for step in cell["steps"]] for cell in cells}
    for held in read_sweep(out)["cells"]:
        name = held["name"]
        if name not in asked:
            raise RunError(
                f"{out} holds another sweep: it has {name}, which this one has not. Name another "
                "--out; a sweep may grow, and not shrink."
            )
        for step in held["steps"]:
            if step["command"] not in asked[name]:
                raise RunError(
                    f"{out} holds another sweep: {name} was asked for by "
                    f"`erasure {' '.join(step['command'])}`. Name another --out."
                )
