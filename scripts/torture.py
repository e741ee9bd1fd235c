"""Try to knock the toolkit over: kills, malformed inputs, failing writes, crowds, a besieged demo.

    OMP_NUM_THREADS=1 python scripts/torture.py --out runs/torture

Everything is drawn from --seed. What was tried stands in OUT/tried.jsonl, a line each, and is not
tried again, so that a run that was stopped goes on; --parts and the counts choose. Exit code 1 if
anything was lost, showed a traceback, or wrote where it should not.
"""

import argparse
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kept_figures
import markdown_file
import torch
from torture_demo import torment
from torture_ground import command, contents, run
from torture_inputs import (
    ARGUMENTS,
    check_whole,
    make_wholes,
    refresh,
    spoil_arguments,
    spoil_file,
    targets,
    try_one,
    whole_arguments,
)
from torture_kills import Case, cases, kill
from torture_writes import full_disk, moment, read_only, sizes, together, vanishing

PARTS = {
    "kills": "SIGKILL at random moments",
    "inputs": "malformed files and arguments",
    "writes": "full disk, read-only and vanishing folders",
    "together": "two and eight commands at once in one folder",
    "demo": "a demo under many clients",
}
CROWDS = (2, 8)


class Notes:
    """The lines of what was tried, and the folder that it was tried in."""

    def __init__(self, out: Path, seed: int) -> None:
        self.place, self.seed, self.file = out.resolve(), seed, out.resolve() / "tried.jsonl"
        self.here = self.place / "here" / "deep"  # from which ".." is still in the place
        self.here.mkdir(parents=True, exist_ok=True)
        lines = self.file.read_text().splitlines() if self.file.is_file() else []
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self._known = {(line["part"], line["name"], line["number"]) for line in self.lines}

    def once(
        self, part: str, name: str, number: int, work: Callable[[random.Random], dict[str, Any]]
    ) -> None:
        """Try something unless it was; its line."""
        if (part, name, number) in self._known:
            return
        told = work(random.Random(f"{self.seed} {part} {name} {number}"))
        line = {"part": part, "name": name, "number": number, **told}
        self.lines.append(line)
        with self.file.open("a") as stream:
            stream.write(json.dumps(line) + "\n")
        if is_bad(line):
            print(json.dumps(line)[:600], flush=True)


def is_bad(line: dict[str, Any]) -> bool:
    wrong = ("lost", "traceback", "tracebacks", "stray", "half", "leftovers", "leaks", "down")
    return any(line.get(name) for name in wrong)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/torture"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", default=",".join(PARTS), help=", ".join(PARTS))
    parser.add_argument("--only", default="", help="commands whose name begins so, such as erase")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--writes", type=int, default=8, help="sizes of a full disk per command")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--calls", type=int, default=6, help="of each client of the demo")
    markdown_file.add_option(parser)
    asked = parser.parse_args()
    unknown = [part for part in asked.parts.split(",") if part not in PARTS]
    if unknown:
        parser.error(f"--parts must be of {', '.join(PARTS)}; got {', '.join(unknown)}")
    kept_figures.refuse_others(parser, asked, ("seed",))
    if torch.get_num_threads() != 1:
        parser.error("OMP_NUM_THREADS must be 1: what is forked must have one thread")
    notes = Notes(asked.out, asked.seed)
    file = asked.markdown and asked.markdown.resolve()
    os.chdir(notes.here)  # where an argument that is a bare name ends up, or ~
    os.environ["HOME"] = str(notes.here)
    works = {
        "kills": _kills,
        "inputs": _inputs,
        "writes": _writes,
        "together": _together,
        "demo": _demo,
    }
    for part in asked.parts.split(","):
        works[part](notes, asked)
    text = table(notes.lines)
    print(text)
    markdown_file.write(file, text)
    sys.exit(int(any(map(is_bad, notes.lines))))


def _wholes(notes: Notes, only: str) -> Iterator[tuple[str, Case, dict[str, str], float]]:
    """Each command with what it leaves when nothing disturbs it, and its seconds."""
    for name, case in cases(notes.place).items():
        if not name.startswith(only):
            continue
        case.begin()
        ended = run(case.work)
        if ended.code:
            raise RuntimeError(f"{name} fails undisturbed: {ended.said[-800:]}")
        yield name, case, contents(case.folder), ended.seconds


def _kills(notes: Notes, asked: argparse.Namespace) -> None:
    found = list(_wholes(notes, asked.only))
    for number in range(asked.kills):
        name, case, whole, seconds = found[number % len(found)]
        notes.once(
            "kills", name, number // len(found),
            lambda rng, c=case, w=whole, s=seconds: kill(c, w, s, rng),
        )  # fmt: skip


def _inputs(notes: Notes, asked: argparse.Namespace) -> None:
    place = notes.place
    make_wholes(place)
    sorts = targets(place)
    names = ["arguments", *sorts]
    for number in range(asked.inputs):
        name = names[number % len(names)]

        def work(rng: random.Random, name: str = name) -> dict[str, Any]:
            if name == "arguments":
                whole = whole_arguments(place, rng.choice(sorted(ARGUMENTS)))
                check_whole(place, whole)
                words = spoil_arguments(whole, rng)
                told = try_one(place, words, place / "spoilt", None, b"")
                return {**told, "words": [*words]}
            target = rng.choice(sorts[name])
            check_whole(place, target.words)
            spoilt = spoil_file(target, rng)
            told = try_one(place, target.words, target.out, target.file, spoilt)
            return {**told, "file": str(target.file.relative_to(place)), "verb": target.words[0]}

        notes.once("inputs", name, number // len(names), work)
        if number % 200 == 199:
            refresh(place)  # what a command was right to write there


def _writes(notes: Notes, asked: argparse.Namespace) -> None:
    for name, case, whole, seconds in _wholes(notes, asked.only):
        every = sizes(case.folder)
        chosen = every[:: max(1, len(every) // asked.writes)]
        for number, size in enumerate(chosen):
            notes.once(
                "writes", f"{name}, full disk", number,
                lambda _rng, c=case, w=whole, s=size: full_disk(c, w, s),
            )  # fmt: skip
        notes.once(
            "writes", f"{name}, vanishing", 0,
            lambda rng, c=case, w=whole, s=seconds: vanishing(c, w, moment(rng, s)),
        )  # fmt: skip
        notes.once(
            "writes", f"{name}, read-only", 0,
            lambda _rng, c=case, w=whole: read_only(c, w),
        )  # fmt: skip


def _together(notes: Notes, asked: argparse.Namespace) -> None:
    for name, case, whole, _ in _wholes(notes, asked.only):
        for count in CROWDS:
            notes.once(
                "together", name, count,
                lambda _rng, c=case, w=whole, n=count: together(c, w, n),
            )  # fmt: skip


def _demo(notes: Notes, asked: argparse.Namespace) -> None:
    run_of = notes.place / "runs" / "run"
    if not run_of.exists():
        made = command("erase", "uce", "--model", "pocket", "--concept", "cat", "--out", run_of)
        ended = run(made)
        if ended.code:
            raise RuntimeError(ended.said)
    notes.once(
        "demo", f"{asked.clients} clients", 0,
        lambda _rng: torment(
            run_of, notes.place / "demo.log", asked.clients, asked.calls, asked.seed
        ),
    )  # fmt: skip


def table(lines: list[dict[str, Any]]) -> str:
    """What was tried and what came of it, by part."""
    rows = [
        "| | tried | lost | tracebacks | left half or elsewhere | refused, of all |",
        "|---|---|---|---|---|---|",
    ]
    for part, title in PARTS.items():
        own = [line for line in lines if line["part"] == part]
        if not own:
            continue
        tried = sum(line.get("kills", line.get("calls", 1)) for line in own)
        lost = sum(bool(line.get("lost") or line.get("down") or line.get("leaks")) for line in own)
        traces = sum(int(line.get("traceback") or line.get("tracebacks") or 0) for line in own)
        half = sum(
            bool(line.get("half") or line.get("stray") or line.get("leftovers")) for line in own
        )
        codes = Counter(line["code"] for line in own if "code" in line)
        refused = f"{codes[2]} of {sum(codes.values())}" if codes else "-"
        rows.append(f"| {title} | {tried} | {lost} | {traces} | {half} | {refused} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
