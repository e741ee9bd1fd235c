"""Speed and memory of diffusion methods, against the naive way of the public code, in one run.

    python scripts/bench.py                                # the built-in model; a CPU will do
    python scripts/bench.py --device cuda --family sd14    # real shapes, random weights
    python scripts/bench.py --method salun,generate --repeats 5 --clock cpu

Every measurement is a process of its own, so that its peak memory is its own. The sides take turns,
`--repeats` times; figures are medians, ratios medians of each turn's ratio. `--clock cpu` counts
the process's own CPU seconds, for a machine that others use too. Methods run with a model's presets
(AdvUnlearn with its published settings) on the CPU in float32, on a GPU in bfloat16 autocast; the
naive side (bench_naive.py) is float32. FLUX is in bfloat16, with gradient checkpointing and without
a naive side, for ESD and GS-LoRA alone. `whole` is the full schedule, with what it sets up. Writes
bench.json and bench.md.
"""

import argparse
import multiprocessing
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import bench_models
import bench_rows
import markdown_file
import torch
from bench_models import FAMILIES
from bench_rows import ROWS, Measured, Row, Side

import erasure
from erasure.errors import ErasureError, SettingError
from erasure.files.storage import atomic, write_json

Answer = TypeVar("Answer")
HEAD = (
    "family", "method", "s", "naive s", "faster", "GB", "naive GB", "memory", "whole",
    "naive whole", "of matrix rate",
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingError(message + ".")


def in_child(function: Callable[..., Answer], *given: object, until: float | None = None) -> Answer:
    """What a function returns in a fresh process; ErasureError if that was killed.

    It is killed here at `until`, a value of time.monotonic().
    """
    # a fork of a process that has asked for CUDA's devices, as an import may, cannot use them
    way = "spawn" if torch.cuda.is_available() else "forkserver"
    context = multiprocessing.get_context(way)
    if way == "forkserver":
        context.set_forkserver_preload(["erasure.erasing", "evaluation.attacking.scene"])
    with ProcessPoolExecutor(1, mp_context=context, initializer=bench_rows.silence) as pool:
        left = None if until is None else until - time.monotonic()
        try:
            return pool.submit(function, *given).result(left)
        except BrokenProcessPool:
            raise ErasureError("killed, most likely for its memory.") from None
        except torch.OutOfMemoryError:
            raise ErasureError("out of memory.") from None
        except TimeoutError:
            for child in multiprocessing.active_children():
                child.kill()
            raise ErasureError("stopped, for its time was over.") from None


def sides(row: Row) -> tuple[Side, ...]:
    if row.family in bench_models.LARGE:
        return ("toolkit",)
    return ("toolkit", "naive", "batched") if row.method == "generate" else ("toolkit", "naive")


def compare(row: Row, repeats: int, until: float | None = None) -> dict[str, Any]:
    """A row's figures for each side, and their ratios; or what went wrong on a side.

    Then those of the sides that were measured. Nothing runs past `until` (see `in_child`).
    """
    found: dict[Side, list[Measured]] = {side: [] for side in sides(row)}
    entry: dict[str, Any] = {"family": row.family, "method": row.method}
    for _ in range(repeats):
        for side in sides(row):
            try:
                found[side].append(in_child(bench_rows.measure, row, side, until=until))
            except ErasureError as error:
                return {**entry, **figures(found), "error": f"{side}: {error}"}
    entry |= figures(found)
    for side in sides(row)[1:]:
        pairs = list(zip(found["toolkit"], found[side], strict=True))
        entry[f"faster_than_{side}"] = statistics.median(b.seconds / a.seconds for a, b in pairs)
        entry[f"memory_of_{side}"] = entry["toolkit"]["peak"] / entry[side]["peak"]
    return entry


def figures(found: dict[Side, list[Measured]]) -> dict[str, Any]:
    """The medians of each side that was measured, and the FLOPs of a step."""
    entry: dict[str, Any] = {}
    for side, turns in found.items():
        if not turns:
            continue
        middle = {
            key: statistics.median(getattr(turn, key) for turn in turns)
            for key in ("seconds", "peak", "setup", "schedule")
        }
        whole = middle["setup"] + middle["schedule"] * middle["seconds"]
        entry[side] = {**middle, "whole": whole, "turns": [turn.seconds for turn in turns]}
        if side == "toolkit":
            entry["flops"] = turns[0].flops
    return entry


def line(entry: dict[str, Any], rate: float) -> list[str]:
    """A row of the table."""
    names = [entry["family"], entry["method"]]
    if "error" in entry:
        return [*names, entry["error"], *[""] * (len(HEAD) - 3)]
    pair = entry["toolkit"], entry.get("naive")
    share = entry["flops"] / pair[0]["seconds"] / rate if entry["flops"] else None

    def ratio(name: str) -> str:
        return f"{entry[name]:.2f}" if name in entry else ""

    return [
        *names,
        *(f"{side['seconds']:.3f}" if side else "" for side in pair), ratio("faster_than_naive"),
        *(f"{side['peak'] / 1e9:.2f}" if side else "" for side in pair), ratio("memory_of_naive"),
        *(f"{side['whole']:.0f} s" if side and side["schedule"] > 1 else "" for side in pair),
        f"{share:.0%}" if share else "",
    ]  # fmt: skip


def table(record: dict[str, Any]) -> str:
    """The rows in Markdown, with what a reader must know of the machine."""
    rate = record["matrix_rate"]
    rows = [HEAD, ["---"] * len(HEAD), *(line(entry, rate) for entry in record["rows"])]
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
    notes = [
        f"`{record['command']}` on {record['device']}, {record['threads']} threads, "
        f"{record['clock']} seconds; matrix rate {rate / 1e12:.3g} TFLOP/s.",
        "s: per step; per image for generate; the whole edit for uce.",
    ]
    notes += [
        f"{entry['family']} generate: {1 / entry['toolkit']['seconds']:.2f} images/s, "
        f"{entry['faster_than_naive']:.2f} times a plain loop's, "
        f"{entry['faster_than_batched']:.2f} times batches by hand."
        for entry in record["rows"]
        if "faster_than_batched" in entry
    ]
    return text + "\n\n" + "\n".join(notes) + "\n"


def words(text: str, known: Sequence[str], what: str) -> list[str]:
    chosen = [word.strip().replace("_", "-") for word in text.split(",")]
    wrong = next((word for word in chosen if word not in known), None)
    if wrong is not None:
        raise SettingError(f"{what} must be among {', '.join(known)}; got {wrong!r}.")
    return chosen


def parsed(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[Row]]:
    """The options and the rows they ask for; SettingError for what is not valid."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", help=f"{', '.join(FAMILIES)}, with commas [pocket; GPU: all]")
    parser.add_argument("--method", default=",".join(ROWS), help="rows, with commas [all]")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each side [3]")
    parser.add_argument("--steps", type=int, default=3, help="timed steps per turn [3]")
    parser.add_argument("--device", help="cpu or cuda [cuda where there is one]")
    parser.add_argument("--resolution", type=int, help="pixels [the family's own]")
    parser.add_argument("--clock", default="wall", help="wall or cpu [wall]")
    parser.add_argument(
        "--gradient-accumulation", type=int, default=1, help="the toolkit's, in training rows [1]"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder [runs/bench]")
    markdown_file.add_option(parser)
    asked = parser.parse_args(arguments)
    has_gpu = torch.cuda.is_available()
    asked.device = asked.device or ("cuda" if has_gpu else "cpu")
    if asked.device not in ("cpu", "cuda"):
        raise SettingError(f"device must be cpu or cuda; got {asked.device!r}.")
    if asked.device == "cuda" and not has_gpu:
        raise SettingError("device is cuda, but torch sees no GPU; use --device cpu.")
    (asked.clock,) = words(asked.clock, ("wall", "cpu"), "clock")
    for name in ("repeats", "steps", "gradient_accumulation"):
        if getattr(asked, name) < 1:
            word = name.replace("_", "-")
            raise SettingError(f"{word} must be at least 1; got {getattr(asked, name)}.")
    if asked.out.exists() and not asked.out.is_dir():
        raise SettingError(f"out must be a folder; {asked.out} is a file.")
    every = ",".join(FAMILIES) if asked.device == "cuda" else "pocket"
    families = words(every if asked.family is None else asked.family, FAMILIES, "family")
    for family in families:
        bench_models.check_resolution(family, asked.resolution)
    rows = [
        Row(
            family,
            method,
            asked.device,
            asked.resolution,
            asked.steps,
            asked.clock,
            asked.gradient_accumulation,
        )
        for family in families
        for method in words(asked.method, ROWS, "method")
        if bench_models.measured(family, method)
    ]
    if not rows:
        family, known = next(iter(bench_models.LARGE.items()))
        raise SettingError(
            f"method must be among {', '.join(known)} for {family}; got {asked.method}."
        )
    return asked, rows


def main(arguments: Sequence[str] | None = None) -> None:
    asked, rows = parsed(arguments)
    record: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "device": torch.cuda.get_device_name() if asked.device == "cuda" else "the CPU",
        "threads": torch.get_num_threads(),
        "clock": asked.clock,
        "versions": {name: version(name) for name in ("torch", "diffusers")}
        | {"erasure-toolkit": erasure.__version__},
        "matrix_rate": in_child(bench_rows.matrix_rate, asked.device),
        "rows": [],
    }
    for row in rows:
        record["rows"].append({**asdict(row), **compare(row, asked.repeats)})
        print(" ".join(line(record["rows"][-1], record["matrix_rate"])), file=sys.stderr)
        write_json(asked.out / "bench.json", record)
    with atomic(asked.out / "bench.md") as temporary:
        temporary.write_text(table(record))
    print(table(record))
    markdown_file.write(asked.markdown, table(record))


if __name__ == "__main__":
    try:
        main()
    except ErasureError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(2)
