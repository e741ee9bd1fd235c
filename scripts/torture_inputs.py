"""Malformed inputs: files with one thing wrong, and arguments that no one means.

A command may refuse in one line (exit code 2) or do its work; it may not show a traceback, write
outside its own folder, or leave half of something.
"""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torture_ground import Ended, command, leftovers, names, run

LONG = "ab/../" * 50
STRANGE: tuple[Any, ...] = (
    None, True, [], {}, -1, 0, 1e308, float("nan"), float("inf"), 10**400, "", " ", "\0", "nan",
    LONG, "../../outside", "/etc/passwd", "a\nb", "\u202e", "\ud800", "💥" * 100, [[]], {"a": None},
    [1, "a"], {"/": "../.."}, "C:\\x", "%s%n", "{name}", "__class__",
)  # fmt: skip
WORDS = (
    "", " ", "a" * 300, "../x", "/", "a/b", "nan", "-1", "1e999", "inf", "💥", "a\nb", "\u202ecat",
    "--", "-", "cat,", ",cat", "cat;dog", "%00", "~", "{name}", "None", "[]", "0x10", "1_000", "½",
    ".", "..",
)  # fmt: skip
PROMPTS = """case_number,prompt,evaluation_seed,classes
0,"a photo of a cat, sitting",188,cat
1,a cat and a house,288,cat
"""
SETTINGS = 'stay = 0.5\nerase-weight = 1.0\npositions = "onward"\naverage = false\nseed = 3\n'
CONCEPTS = "cat\ndog\n"


@dataclass(frozen=True)
class Target:
    """A file to spoil, and the command that reads it; `out` is what that command may write."""

    file: Path
    words: tuple[object, ...]
    out: Path


def targets(place: Path) -> dict[str, list[Target]]:
    """By sort of input, what can be spoilt. The runs and models lie there already."""
    sd1, vit = place / "models" / "sd1", place / "models" / "vit"
    out, base = place / "out", place / "spoilt"
    run_of, own = base / "run", place / "files"
    own.mkdir(exist_ok=True)
    for name, text in (("p.csv", PROMPTS), ("s.toml", SETTINGS), ("c.txt", CONCEPTS)):
        (own / name).write_text(text)
    erase = ("erase", "uce", "--model", sd1, "--out", out, "--kind", "object", "--anchor", "house")
    judge = ("evaluate", run_of, "--steps", "1", "--clip", "pocket", "--keep", "2", "--seeds", "1")
    page = (("report", run_of, "--out", out / "page.html"), out)
    delta = (("export", run_of, out, "--to", "delta"), out)
    forget = ("forget", "ssd", "--model", vit / "model", "--data", vit / "images", "--class", "red",
              "--images", "4", "--test-images", "2", "--out", out)  # fmt: skip
    spoilt_model = (*erase[:3], base / "sd1", *erase[4:], "--concept", "cat")
    configs = [
        file.relative_to(sd1)
        for file in sorted(sd1.rglob("*"))
        if file.suffix in (".json", ".txt", ".safetensors")
    ]
    return {
        "settings": [Target(own / "s.toml", (*erase, "--concept", "cat", "--settings",
                                             own / "s.toml"), out)],
        "prompts": [
            Target(own / "p.csv", (*erase, "--concept", "cat", "--retain-prompts", own / "p.csv"),
                   out),
            Target(own / "p.csv", ("attack", "paraphrase", run_of, "--prompts", own / "p.csv",
                                   "--count", "1", "--seeds", "1", "--criterion", "clip=pocket"),
                   run_of),
            Target(own / "p.csv", (*judge, "--prompts", own / "p.csv"), run_of),
        ],
        "concepts": [Target(own / "c.txt", (*erase, "--concepts-file", own / "c.txt"), out)],
        "records": [
            Target(file, *asked)
            for file in (run_of / "edit.json", run_of / "config.json",
                         *sorted(run_of.glob("*s/*.json")))
            for asked in (page, delta, (judge, run_of))
        ],
        "tensors": [Target(run_of / "edit.safetensors", *asked) for asked in (delta, page)],
        "models": [Target(base / "sd1" / name, spoilt_model, out) for name in configs],
        "classifiers": [
            Target(vit / "model" / "config.json", forget, out),
            Target(vit / "model" / "model.safetensors", forget, out),
        ],
        "images": [Target(vit / "images" / "red" / "3.png", forget, out)],
    }  # fmt: skip


ARGUMENTS = {
    "erase": ("uce", "--model", "SD1", "--out", "OUT", "--concept", "cat", "--kind", "object",
              "--anchor", "house", "--stay", "0.5", "--erase-weight", "1", "--positions", "last",
              "--seed", "1", "--device", "cpu", "--retain-prompts", "FILES/p.csv"),
    "forget": ("ssd", "--model", "VIT/model", "--data", "VIT/images", "--class", "red", "--images",
               "4", "--test-images", "2", "--out", "OUT", "--selection", "1", "--batch-size", "4",
               "--seed", "0", "--missing", "blue"),
    "attack": ("paraphrase", "RUN", "--prompts", "1", "--seeds", "1", "--count", "1", "--criterion",
               "clip=pocket", "--budget", "5"),
    "evaluate": ("RUN", "--protocol", "prompts", "--steps", "1", "--guidance", "1", "--clip",
                 "pocket", "--keep", "1", "--seeds", "1", "--neighbours", "dog"),
    "export": ("RUN", "OUT", "--to", "delta", "--dtype", "float16"),
    "report": ("RUN", "--out", "OUT/page.html"),
    "compare": ("RUN", "--protocol", "prompts", "--out", "OUT.md"),
    "convert": ("SD1", "OUT", "--to", "single-file", "--dtype", "float32"),
    "diff": ("SD1", "RUN"),
    "apply": ("RUN", "RUN", "--out", "OUT"),
    "list": ("concepts", "--model", "SD1"),
}  # fmt: skip


def spoil_file(target: Target, rng: random.Random) -> bytes:
    """The file's bytes with something wrong."""
    held = target.file.read_bytes()
    if target.file.suffix == ".json" and rng.random() < 0.6:
        return _spoilt_json(held, rng)
    return _spoilt_bytes(held, rng)


def spoil_arguments(place: Path, rng: random.Random) -> tuple[object, ...]:
    """A command line of which one or two words are strange, gone or twice there."""
    verb = rng.choice(sorted(ARGUMENTS))
    places = {"SD1": place / "models" / "sd1", "VIT": place / "models" / "vit",
              "OUT": place / "out", "RUN": place / "spoilt" / "run",
              "FILES": place / "files"}  # fmt: skip
    words = [_placed(word, places) for word in ARGUMENTS[verb]]
    for _ in range(rng.choice((1, 1, 2))):
        number = rng.randrange(len(words))
        change = rng.randrange(4)
        if change == 0:
            del words[number]
        elif change == 1:
            words.insert(number, words[number])
        else:
            words[number] = rng.choice(WORDS)
        if not words:
            break
    return (verb, *(word.replace("\0", "") for word in words))


def try_one(
    place: Path, words: tuple[object, ...], out: Path, file: Path | None, spoilt: bytes
) -> dict[str, Any]:
    """Give the command with the file spoilt, then put the file back; what was wrong with it."""
    shutil.rmtree(place / "out", ignore_errors=True)
    held = file.read_bytes() if file else b""
    if file:
        file.write_bytes(spoilt)
    before = names(place)
    try:
        ended = run(command(*words))
    finally:
        if file:
            file.write_bytes(held)
    after = names(place)
    stray = [
        name
        for name in before.keys() | after.keys()
        if before.get(name) != after.get(name)
        and place / name != file
        and not _is_below(place / name, (out, place / "out", place / "here"))
    ]
    return {
        "code": ended.code, "traceback": not ended.is_clean, "stray": stray,
        "half": _half(place, ended, out), "said": "" if ended.is_clean else ended.said[-1500:],
    }  # fmt: skip


def refresh(place: Path) -> None:
    """Fresh copies of the run and the model that are spoilt."""
    base = place / "spoilt"
    shutil.rmtree(base, ignore_errors=True)
    shutil.copytree(place / "runs" / "whole", base / "run")
    shutil.copytree(place / "models" / "sd1", base / "sd1")


def _half(place: Path, ended: Ended, out: Path) -> list[str]:
    """What is not whole after a command: temporary names, and after a refusal a new folder.

    Work that began and failed, by a loss of NaN or because it changed nothing, keeps its log on
    purpose, and says that the next one needs another folder.
    """
    found = leftovers(place)
    is_new = out == place / "out" and "another --out" not in ended.said
    if is_new and ended.code == 2 and out.is_dir():
        found += [str(file.relative_to(place)) for file in out.rglob("*") if file.is_file()]
    return found


def _spoilt_bytes(held: bytes, rng: random.Random) -> bytes:
    data = bytearray(held)
    ways: list[Callable[[], bytes]] = [
        lambda: bytes(data[: rng.randrange(len(data) + 1)]),
        lambda: b"",
        lambda: b"\xff\xfe" + held.decode("latin-1").encode("utf-16-le"),
        lambda: b"\xef\xbb\xbf" + held,
        lambda: held.replace(b"\n", b"\r"),
        lambda: held + rng.randbytes(rng.choice((1, 20))),
        lambda: b"[" * 100_000,
        lambda: b"\0" * len(held),
        lambda: _flipped(data, rng),
        lambda: _flipped(data, rng),
        lambda: _flipped(data, rng, first=min(len(data), 300)),
        lambda: _with_line(held, rng),
    ]
    return rng.choice(ways)()


def _flipped(data: bytearray, rng: random.Random, first: int | None = None) -> bytes:
    for _ in range(rng.choice((1, 3, 20))):
        if data:
            data[rng.randrange(first or len(data))] = rng.choice(
                (0, 255, 34, 10, rng.randrange(256))
            )
    return bytes(data)


def _with_line(held: bytes, rng: random.Random) -> bytes:
    lines = held.split(b"\n")
    strange = str(rng.choice(STRANGE)).encode(errors="replace")
    lines.insert(
        rng.randrange(len(lines) + 1), rng.choice((b"%b", b'"%b', b"x = %b", b"1,%b")) % strange
    )
    return b"\n".join(lines)


def _spoilt_json(held: bytes, rng: random.Random) -> bytes:
    """One value anywhere replaced, taken away, or another put beside it."""
    record = json.loads(held)
    spots: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        keys = value.keys() if isinstance(value, dict) else range(len(value))
        for key in keys:
            spots.append((value, key))
            if isinstance(value[key], (dict, list)) and len(spots) < 5000:
                walk(value[key])

    if isinstance(record, (dict, list)):
        walk(record)
    if not spots:
        return json.dumps(rng.choice(STRANGE[:14])).encode()
    parent, key = rng.choice(spots)
    change = rng.randrange(5)
    if change == 0:
        del parent[key]
    elif change == 1 and isinstance(parent, dict):
        parent[str(rng.choice(WORDS))] = rng.choice(STRANGE)
    else:
        parent[key] = rng.choice(STRANGE)
    return json.dumps(record).encode(errors="surrogatepass")


def _placed(word: str, places: dict[str, Path]) -> str:
    first, slash, rest = word.partition("/")
    stem, dot, end = first.partition(".")
    return f"{places[stem]}{dot}{end}{slash}{rest}" if stem in places else word


def _is_below(file: Path, folders: tuple[Path, ...]) -> bool:
    return any(
        file.is_relative_to(folder) or str(file).startswith(f"{folder}.") for folder in folders
    )
