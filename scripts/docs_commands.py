"""Pages about the command line, from the help of its own commands."""

from typing import Any

import typer
from docs_plugins import plain, table, told

from erasure.commandline.main import app
from erasure.commandline.options import LazyGroup

Record = tuple[str, str]  # an option as it is typed, and what it is


def pages() -> dict[str, str]:
    """A page per command, by its place in docs/, and an index."""
    root = typer.main.get_command(app)
    names = sorted(root.commands)
    written = {f"commands/{name}.md": page(name, root.commands[name]) for name in names}
    rows = [[f"[erasure {name}]({name}.md)", first(root.commands[name].help)] for name in names]
    general = records("erasure", root)
    parts = ["# Command line", plain(root.help or ""), table(["command", "what it does"], rows)]
    parts += ["For all commands:", options(general)]
    return {"commands/index.md": "\n\n".join(parts), **written}


def page(name: str, command: Any) -> str:
    """One command; of a group, what all of its words take, then each word."""
    parts = [f"# erasure {name}"]
    if not isinstance(command, LazyGroup):
        return "\n\n".join([*parts, *_one(f"erasure {name}", command)])
    words = command.list_commands(None)  # type: ignore[arg-type]
    each = {word: command.get_command(None, word) for word in words}
    own = {word: records(f"erasure {name} {word}", one) for word, one in each.items()}
    shared = [entry for entry in own[words[0]] if all(entry in found for found in own.values())]
    parts += [plain(command.help or ""), f"## Options of every {command.noun}", options(shared)]
    for word, one in each.items():
        rest = [record for record in own[word] if record not in shared]
        parts += [f"## {word}", f"```text\n{usage(f'erasure {name} {word}', one)}\n```"]
        parts += [plain(first(one.help)), *([options(rest)] if rest else [])]
    return "\n\n".join(parts)


def _one(name: str, command: Any) -> list[str]:
    text = (command.help or "").replace("\b\n", "")
    return [f"```text\n{usage(name, command)}\n```", told(text), options(records(name, command))]


def records(name: str, command: Any) -> list[Record]:
    """Arguments and options as the help shows them."""
    context = command.make_context(name, [], resilient_parsing=True)
    found = [entry.get_help_record(context) for entry in command.params]
    return [(_line(left), _line(right)) for left, right in filter(None, found)]


def _line(text: str) -> str:
    return " ".join(text.split())


def usage(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    return " ".join(command.get_usage(context).removeprefix("Usage: ").split())


def options(found: list[Record]) -> str:
    return table(["option", "what it is"], [[f"`{left}`", plain(right)] for left, right in found])


def first(text: str | None) -> str:
    """The first paragraph of a help in one line."""
    return plain(" ".join((text or "").replace("\b", "").split("\n\n")[0].split()))
