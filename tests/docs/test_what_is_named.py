"""What pages, docstrings and messages name is there: options, commands, files, names of the code.

Blocks of shell are typed by test_documented_commands.py. This reads all the rest, which nobody
types: what stands in the middle of a sentence, in a table, in the changelog.
"""

import ast
import dataclasses
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_type_hints

import typer
from documents import PAGES, ROOT, every_block

from erasure.commandline.main import app
from erasure.config import choices
from erasure.registry import ATTACKS, METHODS, PROTOCOLS

PACKAGES = ("erasure", "classifiers", "evaluation", "datasets", "scripts")
SOURCES = [file for folder in PACKAGES for file in sorted((ROOT / folder).rglob("*.py"))]
CARDS = [file for folder in PACKAGES for file in sorted((ROOT / folder).rglob("*.md"))]
TEXTS = [*sorted({*ROOT.glob("*.md"), *PAGES}), *CARDS]

OPTION = re.compile(r"(?<![\w-])--[a-z]\w*(?:-\w+)*(?![\w-])")
SPAN = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
PLACE = re.compile(rf"(?<![\w/.-])(?:{'|'.join(PACKAGES)}|tests|docs)/[\w./*-]*[\w*]/?(?![\w{{])")

CHOICE = re.compile(r"(?:(?<=--)([a-z][\w-]*) |\b([a-z]\w*)(?:=|: ))([a-z][\w|-]*)")

OF_TOOLS = {  # options of the programs that ours stand beside
    "accelerate, torchrun": {"--multi-gpu", "--num-processes", "--nproc-per-node"},
    "SLURM, Ray": {
        "--nodes", "--ntasks", "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task", "--time",
        "--exclude", "--overlap", "--head", "--block", "--port",
    },
    "git, as pocket_training.py asks it": {"--short"},
    "pytest, tests/cuda/conftest.py": {"--cuda-device"},
    "a variable of CSS": {"--grid-cols"},
    "what a plug-in of a tutorial takes": {"--factor", "--marks"},
    "what diffusers' users type, and are answered": {"--lr"},
}  # fmt: skip


# no names, though they look like it: words that are spoken of, and keys of Ray's own files
ORDINARY = {"church", "helpers", "misc", "of_A", "file_mounts", "setup_commands"}


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def spans(file: Path) -> Iterator[tuple[str, str]]:
    """(where, text) of what stands in backticks outside of blocks, each on one line."""
    text = FENCED.sub(lambda block: "\n" * block[0].count("\n"), file.read_text(encoding="utf-8"))
    for found in SPAN.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield f"{name_of(file)}:{line}", " ".join(found[1].split())


@cache
def commands() -> dict[str, set[str]]:
    """The options of every command by its words: "erase uce", "export", ..."""
    found: dict[str, set[str]] = {"": {"--version", "--plugin", "--help"}}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        words = command.list_commands(None) if hasattr(command, "list_commands") else [""]
        for word in words:
            one = command.get_command(None, word) if word else command
            options = {flag for entry in one.params for flag in entry.opts + entry.secondary_opts}
            found[f"{name} {word}".strip()] = {*options, *found[""]}
    return found


@cache
def of_script(name: str) -> set[str]:
    """The options of one of the scripts, those that it takes over from another one included."""
    tree = ast.parse((ROOT / "scripts" / f"{name}.py").read_text(encoding="utf-8"))
    options, imported = {"--help"}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            options |= added(node)
    near = [module for module in imported if (ROOT / "scripts" / f"{module}.py").is_file()]
    return options.union(*map(of_script, near))


def added(call: ast.Call) -> set[str]:
    """The options that `parser.add_argument(...)` adds, with `--no-...` where it says so."""
    flags = {str(word.value) for word in call.args if isinstance(word, ast.Constant)}
    flags = {flag for flag in flags if flag.startswith("--")}
    if any(getattr(word.value, "attr", "") == "BooleanOptionalAction" for word in call.keywords):
        flags |= {f"--no-{flag.removeprefix('--')}" for flag in flags}
    return flags


def known_options() -> set[str]:
    scripts = [of_script(file.stem) for file in (ROOT / "scripts").glob("*.py")]
    return set().union(*commands().values(), *scripts, *OF_TOOLS.values())


def takers(words: list[str]) -> list[str] | None:
    """The commands, or the script, that a line of these words is meant for.

    None if it is no command; none in the list where it is one that is not there.
    """
    known, groups = commands(), {"erase", "forget", "attack"}
    if "erasure" in words:
        words = words[words.index("erasure") + 1 :]
        if words and words[0].isupper():
            return None
        if words and words[0].startswith("-"):
            return [""]
        if words and words[0] not in groups and words[0].isalpha():
            return [words[0]] if words[0] in known else []
    if words and words[0] in groups:
        named = words[1] if len(words) > 1 else ""
        of_group = [one for one in known if one.startswith(f"{words[0]} ")]
        if not re.match("[a-z]", named) or named == "all":
            return of_group
        asked = [f"{words[0]} {name}" for name in named.split("|")]
        return asked if set(asked) <= set(of_group) else []
    if words and words[0] in known:
        return [words[0]]
    scripts = [word for word in words[:2] if word.endswith(".py")]
    if scripts and (ROOT / "scripts" / Path(scripts[0]).name).is_file():
        return [scripts[0]]
    if words and words[0] in PROTOCOLS.names():
        return ["evaluate"]
    return [one for one in known if words and one.endswith(f" {words[0]}")] or None


def taken_by(names: list[str]) -> set[str]:
    each = [of_script(Path(n).stem) if n.endswith(".py") else commands()[n] for n in names]
    return set().union(*each)


def wrong_options(line: str) -> list[str]:
    """What is wrong with a line that begins as a command: options that it does not take."""
    wrong = []
    for part in line.split(" && "):
        names = takers(part.split())
        if names == []:
            wrong.append(f"there is no command {part!r}")
        elif names:
            asked = {option.replace("_", "-") for option in OPTION.findall(part)}
            wrong += [f"{names} takes no {option}" for option in asked - taken_by(names)
                      - OF_TOOLS["accelerate, torchrun"]]  # fmt: skip
    return wrong


def test_every_option_is_one_of_some_command() -> None:
    known, unknown = known_options(), []
    for file in [*TEXTS, *SOURCES]:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            unknown += [
                f"{name_of(file)}:{number}: {option}"
                for option in OPTION.findall(line) if option.replace("_", "-") not in known
            ]  # fmt: skip
    assert not unknown


def test_a_command_takes_the_options_that_stand_behind_it() -> None:
    wrong = [
        f"{where}: {text}: {fault}"
        for file in [*TEXTS, *SOURCES] for where, text in spans(file)
        for fault in wrong_options(text)
    ]  # fmt: skip
    assert not wrong


def test_a_script_says_how_it_is_called() -> None:
    """In its docstring, by lines such as `python scripts/NAME.py ...`."""
    wrong = []
    for file in sorted((ROOT / "scripts").glob("*.py")):
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        for call in re.findall(r"^ *((?:python scripts/|erasure ).+(?:\\\n.+)*)", text, re.M):
            wrong += [f"{file.name}: {fault}" for fault in wrong_options(" ".join(call.split()))]
    assert not wrong


def test_every_file_is_there() -> None:
    missing = [
        f"{name_of(file)}: {place}"
        for file in [*TEXTS, *SOURCES]
        for place in PLACE.findall(file.read_text(encoding="utf-8"))
        if "NAME" not in place and not is_there(place)
    ]
    assert not missing


def is_there(place: str) -> bool:
    return any(ROOT.glob(place)) if "*" in place else (ROOT / place).exists()


def test_every_module_is_there() -> None:
    """Files that are named by the end of their path anywhere, or in backticks by their name."""
    own = {block.title for block in every_block()} | {"app.py"}  # a tutorial's, and a Space's
    known = [f"/{name_of(file)}" for folder in (*PACKAGES, "tests") for file in
             (ROOT / folder).rglob("*.py")]  # fmt: skip
    named = [
        (name_of(file), word)
        for file in [*TEXTS, *SOURCES]
        for word in re.findall(r"(?<![\w/.-])\w+(?:/\w+)+\.py", file.read_text(encoding="utf-8"))
    ]
    named += [
        (where, word)
        for file in TEXTS for where, text in spans(file) for word in re.findall(r"[\w/]+\.py", text)
        if word not in own and not re.search("file|NAME", word, re.IGNORECASE)
    ]  # fmt: skip
    assert not [
        f"{where}: {word}" for where, word in named
        if "NAME" not in word and not any(one.endswith(f"/{word}") for one in known)
    ]  # fmt: skip


def test_every_name_is_one_of_the_code() -> None:
    """What stands alone in backticks and looks like a name: functions, settings, keys, plug-ins.

    A name is there if the code has it outside of backticks, or if it is a file's.
    """
    files = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
    code = SPAN.sub("", "\n".join(file.read_text(encoding="utf-8") for file in files))
    words = {*re.findall(r"\w+", code), *(file.stem for file in files), *ORDINARY}
    unknown = [
        f"{where}: {text}"
        for file in [*TEXTS, *SOURCES] for where, text in spans(file)
        if re.fullmatch(r"[a-z][\w.-]*(\([\w, =.\"]*\))?", text, re.IGNORECASE)
        for word in re.findall(r"\b[a-z_]\w{2,}", text)
        if word not in words
    ]  # fmt: skip
    assert not unknown


def test_every_choice_is_one_that_the_setting_has() -> None:
    """Words of settings that have a list of them: `name=word`, `name: word`, `--name word|word`."""
    known: dict[str, set[str]] = {}
    for registry in (*METHODS.kinds.values(), ATTACKS):
        for kind in map(registry.get, registry.names()):
            hints = get_type_hints(kind)
            for item in dataclasses.fields(kind):
                if words := choices(hints[item.name]):
                    known.setdefault(item.name, set()).update(words)
    assert known["positions"] == {"last", "onward"}
    wrong = []
    for file in [*TEXTS, *SOURCES]:
        for where, text in spans(file):
            for option, name, value in CHOICE.findall(text):
                valid = known.get(name or option.replace("-", "_"))
                if valid and not {*value.split("|")} <= valid:
                    wrong.append(f"{where}: {text}")
    assert not wrong


def test_what_is_not_there_is_noticed() -> None:
    assert wrong_options("erasure erase uce --concept cat --out runs/cat") == []
    assert wrong_options("erasure erase uce|esd --steps 9") == []  # of the second alone
    for line in (
        "erasure erase uce --steps 9",
        "attack paraphrase --restarts 2",
        "salun --keep-by nothing --states 2",
        "python scripts/gold_table.py --quick --known 1",
        "erasure eraze uce",
    ):
        assert len(wrong_options(line)) == 1, line
    assert "--concept-list" not in known_options()
    assert not is_there("scripts/nothing.py")
