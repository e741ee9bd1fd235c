"""Malformed inputs: files with one thing wrong, and arguments that no one means.

A command may refuse in one line (exit code 2) or do its work; it may not show a traceback, write
outside its own folder, or leave half of something.
"""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from torture_ground import Ended, command, leftovers, names, run
from torture_kills import cases

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
1,a dog before a house,288,dog
"""
SETTINGS = 'stay = 0.5\nerase-weight = 1.0\npositions = "onward"\naverage = false\n'
CONCEPTS = """concept,kind,anchor,templates
cat,object,a house,"a photo of {a name}|{name}, sitting"
Monet,style,,
"""


@dataclass(frozen=True)
class Target:
    """A file to spoil, and the command that reads it; `out` is what that command may write.

    With the file as it is the command does its work, or what it says of a spoilt one means nothing.
    """

    file: Path
    words: tuple[object, ...]
    out: Path


def targets(place: Path) -> dict[str, list[Target]]:
    """By sort of input, what can be spoilt. The runs and models lie there already."""
    sd1, out, base = place / "models" / "sd1", place / "out", place / "spoilt"
    vit = base / "vit"
    run_of, bare, own = base / "run", base / "bare", place / "files"
    own.mkdir(exist_ok=True)
    texts = {
        "a.csv": PROMPTS,
        "one.csv": PROMPTS[: PROMPTS.index("1,")],
        "p.csv": PROMPTS + "2,a frog,388,frog\n",  # what is kept
        "s.toml": SETTINGS,
        "c.csv": CONCEPTS,
        "c.txt": "cat\nfrog\n",
    }
    for name, text in texts.items():
        (own / name).write_text(text)
    uce = ("erase", "uce", "--model", sd1, "--out", out)
    erase = (*uce, "--kind", "object", "--anchor", "house")
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
            Target(own / "one.csv", ("attack", "paraphrase", bare, "--prompts", own / "one.csv",
                                     "--concept", "cat", "--count", "1", "--seeds", "1",
                                     "--criterion", "clip=pocket"), bare),
            Target(own / "a.csv", (judge[0], bare, *judge[2:], "--prompts", own / "a.csv"), bare),
        ],
        "concepts": [
            Target(own / "c.txt", (*erase, "--concepts-file", own / "c.txt"), out),
            Target(own / "c.csv", (*uce, "--concepts-file", own / "c.csv"), out),
        ],
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
              "--anchor", "house", "--template", "a {name}", "--stay", "0.5", "--erase-weight", "1",
              "--positions", "last", "--device", "cpu", "--retain-prompts", "FILES/p.csv"),
    "forget": ("ssd", "--model", "VIT/model", "--data", "VIT/images", "--class", "red", "--images",
               "4", "--test-images", "2", "--out", "OUT", "--selection", "1", "--batch-size", "4",
               "--seed", "0", "--missing", "blue"),
    "attack": ("paraphrase", "BARE", "--prompts", "1", "--seeds", "1", "--count", "1",
               "--criterion", "clip=pocket", "--budget", "500"),
    "evaluate": ("BARE", "--protocol", "prompts", "--steps", "1", "--guidance", "1", "--clip",
                 "pocket", "--keep", "1", "--seeds", "1", "--neighbours", "frog"),
    "export": ("RUN", "OUT", "--to", "delta", "--dtype", "float16"),
    "report": ("RUN", "--out", "OUT/page.html"),
    "compare": ("RUN", "OTHER", "--protocol", "prompts-seeds-1", "--out", "OUT.md"),
    "convert": ("SD1", "OUT", "--to", "single-file", "--dtype", "float32"),
    "diff": ("SD1", "RUN"),
    "apply": ("RUN", "OTHER", "--overlap", "add", "--out", "OUT"),
    "list": ("concepts", "--model", "pocket"),
}  # fmt: skip


def spoil_file(target: Target, rng: random.Random) -> bytes:
    """The file's bytes with something wrong."""
    held = target.file.read_bytes()
    if target.file.suffix == ".json" and rng.random() < 0.6:
        return _spoilt_json(held, rng)
    return _spoilt_bytes(held, rng)


def spoil_arguments(whole: tuple[str, ...], rng: random.Random) -> tuple[str, ...]:
    """A command line of which one or two words are strange, gone or twice there."""
    verb, *words = whole
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


def whole_arguments(place: Path, verb: str) -> tuple[str, ...]:
    """A verb's command line with nothing wrong."""
    base = place / "spoilt"
    places = {"SD1": place / "models" / "sd1", "VIT": place / "models" / "vit",
              "OUT": place / "out", "FILES": place / "files", "RUN": base / "run",
              "BARE": base / "bare", "OTHER": base / "other"}  # fmt: skip
    return (verb, *(_placed(word, places) for word in ARGUMENTS[verb]))


def make_wholes(place: Path) -> None:
    """Two runs that were judged, one attacked, too, and fresh copies of all that is spoilt."""
    cases(place)  # models and runs
    sd1, runs = place / "models" / "sd1", place / "runs"
    whole, other = runs / "whole", runs / "whole-other"
    judged = ("--steps", "1", "--clip", "pocket", "--seeds", "1", "--keep", "2")
    if not other.exists():
        shutil.copytree(runs / "below-uce", whole)
        for words in (
            ("evaluate", whole, *judged),
            ("attack", "paraphrase", whole, "--prompts", "1", "--seeds", "1", "--count", "1",
             "--criterion", "clip=pocket"),
            ("erase", "uce", "--model", sd1, "--out", other, "--concept", "horse", "--kind",
             "object", "--anchor", "house"),
            ("evaluate", other, *judged),
        ):  # fmt: skip
            ended = run(command(*words))
            if ended.code:
                raise RuntimeError(ended.said)
    refresh(place)


@cache
def check_whole(place: Path, words: tuple[object, ...]) -> None:
    """RuntimeError for a command that does not do its work while nothing is wrong."""
    _begin(place)
    ended = run(command(*words))
    if ended.code:
        raise RuntimeError(f"{words} fails with nothing wrong: {ended.said[-800:]}")


def _begin(place: Path) -> None:
    """Nothing is there yet where a command writes."""
    for file in place.glob("out*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    bare = place / "spoilt" / "bare"
    shutil.rmtree(bare, ignore_errors=True)
    shutil.copytree(place / "runs" / "below-uce", bare)


def try_one(
    place: Path, words: tuple[object, ...], out: Path, file: Path | None, spoilt: bytes
) -> dict[str, Any]:
    """Give the command with the file spoilt, then put the file back; what was wrong with it."""
    _begin(place)
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
        "half": _half(place, ended), "said": "" if ended.is_clean else ended.said[-1500:],
    }  # fmt: skip


def refresh(place: Path) -> None:
    """Fresh copies of the runs and the models that are spoilt; a kill may have left them so."""
    base = place / "spoilt"
    shutil.rmtree(base, ignore_errors=True)
    shutil.copytree(place / "runs" / "whole", base / "run")
    shutil.copytree(place / "runs" / "whole-other", base / "other")
    for name in ("sd1", "vit"):
        shutil.copytree(place / "models" / name, base / name)


def _half(place: Path, ended: Ended) -> list[str]:
    """What is not whole after a command: temporary names, and after a refusal a new folder.

    Work that began and failed, by a loss of NaN or because it changed nothing, keeps its log on
    purpose, and says that the next one needs another folder.
    """
    found = leftovers(place)
    out = place / "out"
    if ended.code == 2 and "another --out" not in ended.said and out.is_dir():
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
