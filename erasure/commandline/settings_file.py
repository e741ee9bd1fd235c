"""Where options come from that the command line leaves out: a settings file, or an earlier run.

The command line goes before the file, the file before the earlier run, and both before `--quick`,
presets and defaults.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.models import OptionInfo

from erasure.config import EARLIER, FILE, Origin, nearest
from erasure.errors import SettingError
from erasure.files.toml import read_toml

MAY_BE_EMPTY = ("anchor",)
ORIGINS = "erasure.origins"
# by an option's type: what TOML must hold, and the words for it
TYPES: dict[object, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    str: ((str, int), "a text in quotes, or a whole number"),  # as `subset` and `prompts` may be
}
TEXT: tuple[tuple[type, ...], str] = ((str,), "a text in quotes")


@dataclass(frozen=True)
class Known:
    """An option that a file may give: its parameter's name, its type, and whether it repeats."""

    name: str
    kind: object
    is_repeated: bool


def known_options(options: Sequence[inspect.Parameter]) -> dict[str, Known]:
    """The options among a command's parameters, by their flags without the dashes before them."""
    found = {}
    for entry in options:
        kind, told = get_args(entry.annotation)
        if isinstance(told, OptionInfo):
            # in an annotation typer takes the first flag for a default, until it reads it
            words = [word for word in (told.default, *(told.param_decls or ())) if word]
            flag = str(words[0]).partition("/")[0].lstrip("-")
            kinds = [part for part in get_args(kind) if part is not NoneType] or [kind]
            plain = kind if get_origin(kind) is list else kinds[0]
            is_repeated = get_origin(plain) is list
            found[flag] = Known(
                entry.name, get_args(plain)[0] if is_repeated else plain, is_repeated
            )
    return found


def file_option(known: Mapping[str, Known]) -> inspect.Parameter:
    """`--settings FILE.toml`, which is read before the other options are."""

    def take(context: typer.Context, files: list[Path] | None) -> list[Path] | None:
        for file in files or []:
            offer(context, known, _given(file, known, context.info_name or ""), FILE, str(file))
        return files

    text = (
        "a TOML file with values for these options; the command line goes before it, and a later "
        "file before an earlier one"
    )
    return _eager("settings", "--settings", text, take, list[Path])


def earlier_run_option(method: str, known: Mapping[str, Known]) -> inspect.Parameter:
    """`--from RUN`, which gives what that run of the method was given."""

    def take(context: typer.Context, run: Path | None) -> Path | None:
        if run is not None:
            settings_of: Any = importlib.import_module("erasure.repeating").settings_of
            given = settings_of(run, method, {entry.name for entry in known.values()})
            flags = {entry.name: flag for flag, entry in known.items()}
            named = {flags[name]: value for name, value in given.items()}
            offer(context, known, named, EARLIER, str(run / "config.json"))
        return run

    text = "a run of this method, whose model, seed and settings are taken; not its concepts"
    return _eager("from_", "--from", text, take, Path)


def _eager(
    name: str, flag: str, text: str, take: Callable[..., Any], kind: Any
) -> inspect.Parameter:
    option = typer.Option(flag, help=text, is_eager=True, callback=take)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None,
        annotation=Annotated[kind | None, option],
    )  # fmt: skip


def offer(
    context: typer.Context, known: Mapping[str, Known], values: Mapping[str, Any], origin: Origin,
    where: str,
) -> None:  # fmt: skip
    """Give options, by their flags, a value for where the command line has none.

    SettingError, naming `where`, for a value of the wrong type.
    """
    origins = context.meta.setdefault(ORIGINS, {})
    offered = dict(context.default_map or {})
    for flag, value in values.items():
        name, checked = known[flag].name, checked_value(flag, known[flag], value, where)
        if origin == FILE or name not in offered:
            offered[name], origins[name] = checked, origin
    context.default_map = offered


def origins_of(context: typer.Context) -> dict[str, Origin]:
    """Where the values of parameters came from that the command line did not give."""
    return {
        name: origin
        for name, origin in context.meta.get(ORIGINS, {}).items()
        if getattr(context.get_parameter_source(name), "name", "") == "DEFAULT_MAP"
    }


def _given(file: Path, known: Mapping[str, Known], command: str) -> dict[str, Any]:
    """A file's values by flag; SettingError for a key that the command does not take."""
    given = dict[str, Any]()
    for key, value in read_toml(file).items():
        flag = key.replace("_", "-")
        if flag not in known:
            raise SettingError(
                f"{file} has {key!r}, which {command} does not take. {nearest(flag, sorted(known))}"
            )
        if flag in given:
            raise SettingError(f"{file} has {flag} twice, once with - and once with _.")
        given[flag] = value
    return given


def checked_value(flag: str, option: Known, value: Any, where: str) -> Any:
    """A value of the option's type; a single one may stand for a list of one."""
    # of texts that repeat, names are the only ones
    known = TEXT if option.kind is str and option.is_repeated else None
    kinds, words = known or TYPES.get(option.kind, TEXT)
    values = value if option.is_repeated and isinstance(value, list) else [value]
    if not values:
        raise SettingError(f"{flag} in {where} must name at least one; leave it out for none.")
    for one in values:
        if not isinstance(one, kinds) or (isinstance(one, bool) and bool not in kinds):
            several = ", or a list of them" if option.is_repeated else ""
            raise SettingError(f"{flag} in {where} must be {words}{several}; got {one!r}.")
        if isinstance(one, str) and not one.strip() and option.name not in MAY_BE_EMPTY:
            raise SettingError(f"{flag} in {where} must not be empty.")
    read = [str(one) if option.kind is str else one for one in values]
    return read if option.is_repeated else read[0]
