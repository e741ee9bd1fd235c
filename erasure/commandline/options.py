"""Commands whose options come from a settings dataclass, built when they are asked for."""

import dataclasses
import importlib
import inspect
from collections.abc import Sequence
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperGroup

from erasure.commandline.settings_file import (
    earlier_run_option,
    file_option,
    known_options,
    origins_of,
)
from erasure.config import choices, nearest, needs
from erasure.errors import SettingError

BASE = "where the run's base model is now, if it has moved"
CONTEXT = {
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "help_option_names": ["-h", "--help"],
}


def load(where: str) -> Any:
    """What "module:name" stands for, imported now: so that help and lists import nothing heavy."""
    module, name = where.split(":")
    return getattr(importlib.import_module(module), name)


class LazyGroup(TyperGroup):
    """One command per file of a folder, built from the file's dataclass when it is asked for."""

    noun = ""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        name = cmd_name.replace("_", "-")
        if name in self.list_commands(ctx):
            return self.build(name)
        raise SettingError(
            f"there is no {self.noun} {name!r}. {nearest(name, self.list_commands(ctx))}"
        )

    def build(self, name: str) -> Any:
        raise NotImplementedError

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the names without importing the files."""
        with formatter.section(f"{self.noun.title()}s"):
            formatter.write_text(", ".join(self.list_commands(ctx)))


def option(name: str, kind: Any, default: Any, text: str) -> inspect.Parameter:
    """One option of a command; `...` as its default makes it required."""
    flag = "--" + name.rstrip("_").replace("_", "-")  # class_ for a word that Python keeps
    flags = [f"{flag}/--no-{name.replace('_', '-')}"] if kind == bool | None else [flag]
    return _parameter(name, Annotated[kind, typer.Option(*flags, help=text)], default)


def argument(name: str, kind: Any, default: Any, text: str) -> inspect.Parameter:
    """As `option`, of what a command takes by its place."""
    return _parameter(name, Annotated[kind, typer.Argument(help=text)], default)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    value = inspect.Parameter.empty if default is ... else default
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=annotation
    )


def setting_options(kind: type) -> list[inspect.Parameter]:
    """One option per field of a settings dataclass; None where the user is silent."""
    return shared_options([kind])


def shared_options(kinds: Sequence[type]) -> list[inspect.Parameter]:
    """As `setting_options` of several dataclasses; a field that two have is one option."""
    types: dict[str, Any] = {}
    texts: dict[str, list[str]] = {}
    for kind in kinds:
        hints = get_type_hints(kind)
        for item in dataclasses.fields(kind):
            words = choices(hints[item.name])
            types[item.name] = str if words else hints[item.name]
            told = f" ({', '.join(words)})" if words else ""
            texts.setdefault(item.name, []).append(
                f"{item.metadata['help']}{told}{needs(item)} [default: {item.default!r}]"
            )
    return [option(name, types[name] | None, None, "; ".join(texts[name])) for name in types]


def built(
    name: str, command: Any, options: list[inspect.Parameter], text: str | None, *,
    has_earlier: bool = False,
) -> Any:  # fmt: skip
    """A click command with these options around a function that takes them all by name.

    With `has_earlier`, `--from RUN` takes them from a run of the method of this name.
    """
    single = typer.Typer(add_completion=False, context_settings=CONTEXT, rich_markup_mode=None)
    single.command(name, context_settings=CONTEXT)(
        with_options(command, options, text, earlier=name if has_earlier else None)
    )
    return typer.main.get_command(single)


def with_options(
    command: Any, options: list[inspect.Parameter], text: str | None, *, earlier: str | None = None
) -> Any:
    """A function for typer, with its signature and help, that hands the command all by name.

    `--settings` is among its options and, of the method `earlier`, `--from`. What comes first says
    where values came from that the command line did not give.
    """

    def called(context: typer.Context, **values: Any) -> None:
        del values["settings"]  # it was read before the others
        command(origins_of(context), **values)

    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    known = known_options(options)
    more = [file_option(known), *([earlier_run_option(earlier, known)] if earlier else [])]
    entries: Any = [context, *options, *more]
    signed: Any = called
    signed.__signature__ = inspect.Signature(entries)
    signed.__annotations__ = {entry.name: entry.annotation for entry in entries}
    signed.__doc__ = laid_out(text or "")
    return signed


def laid_out(text: str) -> str:
    """A docstring whose formulas and lists keep their lines in a command's help."""
    paragraphs = text.strip().split("\n\n")
    return "\n\n".join(
        f"\b\n{part}" if any(line.startswith((" ", "- ")) for line in part.splitlines()) else part
        for part in paragraphs
    )


def seeds_of(text: str) -> tuple[int, ...]:
    """The numbers in a text with commas; SettingError for what is none."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise SettingError(
            f"seeds must be whole numbers separated by commas; got {text!r}."
        ) from None


def given_settings(values: dict[str, Any], common: list[inspect.Parameter]) -> dict[str, Any]:
    """The settings that the user named."""
    known = {entry.name for entry in common}
    return {name: v for name, v in values.items() if name not in known and v is not None}
