"""The command line: a thin, lazy table over the public functions.

A method's options come from its dataclass.
"""

import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

import erasure
from erasure.commandline import (
    environment,
    formats,
    listing,
    results,
    stacks,
    sweeping,
    training,
)
from erasure.commandline.interrupted import after_interrupt
from erasure.commandline.judging import AttackGroup, evaluate_command
from erasure.commandline.methods import ForgetGroup, MethodGroup
from erasure.commandline.options import CONTEXT, LazyGroup, load
from erasure.commandline.printing import print_scores
from erasure.errors import ErasureError, SettingError
from erasure.registry import load_plugin
from erasure_datasets.errors import DataError, DataWarning

INTERRUPTED = 130


app = typer.Typer(
    add_completion=False, no_args_is_help=True, context_settings=CONTEXT, rich_markup_mode=None,
    help="Take a concept out of a text-to-image model, prove that it is gone, hand the model back.",
)  # fmt: skip


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"erasure {erasure.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", help="print the version", is_eager=True, callback=_print_version
        ),
    ] = False,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="a file with a method, attack, ... of your own; anywhere in the line"),
    ] = None,
) -> None:
    """Take a concept out of a text-to-image model, prove that it is gone, hand the model back."""


def _add_group(name: str, kind: type[LazyGroup], text: str) -> None:
    """`erasure NAME WORD ...`: one command per plug-in."""
    group = typer.Typer(
        cls=kind, no_args_is_help=True, context_settings=CONTEXT, rich_markup_mode=None, help=text
    )
    group.callback()(lambda: None)
    app.add_typer(group, name=name)


_add_group(
    "erase", MethodGroup, "Erase concepts: erasure erase METHOD --concept NAME --out FOLDER."
)
_add_group(
    "forget", ForgetGroup,
    "Make a classifier forget classes: erasure forget METHOD --class NAME --out FOLDER.",
)  # fmt: skip
_add_group("attack", AttackGroup, "Try to bring an erased concept back: erasure attack ATTACK RUN.")


app.command("evaluate", context_settings=CONTEXT)(evaluate_command())


results.add_to(app)
stacks.add_to(app)
formats.add_to(app)
listing.add_to(app)
environment.add_to(app)
sweeping.add_to(app)
training.add_to(app)


@app.command(context_settings=CONTEXT)
def quickstart(
    out: Annotated[Path, typer.Option(help="the run's folder")] = Path("runs/quickstart"),
    concept: Annotated[str, typer.Option(help="what to erase from the built-in model")] = "cat",
) -> None:
    """Erase a concept from the built-in model, judge it, export it, write a page with pictures.

    It takes minutes on a CPU.
    """
    facts = load("evaluation.quickstart:quickstart")(out, concept)
    print_scores(facts.record)
    for name, path in facts.places.items():
        typer.echo(f"{name:>10}: {path}")


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2."""
    command = typer.main.get_command(app)
    try:
        _refuse_empty(sys.argv[1:])
        with warnings.catch_warnings():
            warnings.simplefilter("always", DataWarning)
            warnings.showwarning = partial(_show, warnings.showwarning)
            code = command.main(_load_plugins(sys.argv[1:]), standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
            print(error.format_message(), file=sys.stderr)  # type: ignore[attr-defined]
            sys.exit(2)
        told = complaint(error)
        if told is None:
            raise
        print(f"erasure: {' '.join(told.split())}", file=sys.stderr)
        sys.exit(2)
    if code == INTERRUPTED:  # typer answers Ctrl-C with this code, in silence
        print(f"erasure: interrupted; {after_interrupt(sys.argv[1:])}.", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def complaint(error: Exception) -> str | None:
    """What a user is told of an error that is theirs to mend; None for one of ours."""
    if isinstance(error, ErasureError | DataError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:  # a folder is gone, a disk is full
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported here
        return f"the device has too little memory: {error}"
    # click's own usage errors, wherever typer keeps click
    message = getattr(error, "format_message", None)
    return (_meant(error) or message()) if message else None


def _load_plugins(words: list[str]) -> list[str]:
    """Load what `--plugin` names, wherever it stands; the other words of the line.

    It must be there before the words that it gives a meaning.
    """
    rest, left = [], iter(words)
    for word in left:
        option, equals, value = word.partition("=")
        if option == "--plugin":
            load_plugin(Path(value if equals else next(left, "")))
        else:
            rest.append(word)
    return rest


def _show(
    plainly: Callable[..., None], message: Warning | str, category: type[Warning], *place: Any,
    **more: Any,
) -> None:  # fmt: skip
    """A warning about the user's data as one line, of one process; any other as Python has it."""
    if not issubclass(category, DataWarning):
        plainly(message, category, *place, **more)
    elif os.environ.get("RANK", "0") == "0":
        print("erasure: warning: " + " ".join(str(message).split()), file=sys.stderr)


def _refuse_empty(words: list[str]) -> None:
    """SettingError for an empty argument, as an unset variable of a shell gives; `--anchor` may be.

    Most are paths, and an empty path would be the folder that one is in.
    """
    for before, word in pairwise(["", *words]):
        option, sign, value = word.partition("=") if word.startswith("--") else (before, "=", word)
        if sign and not value.strip() and option != "--anchor":
            name = option if option.startswith("-") else f"what follows {option or 'erasure'}"
            raise SettingError(f"{name} must not be empty.")


def _meant(error: Exception) -> str:
    """What to say of an abbreviated option (lr for learning-rate); nothing of any other error."""
    word, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if not word or context is None:
        return ""
    short = word.lstrip("-")
    names = [name for entry in context.command.params for name in entry.opts]
    initials = {name: "".join(part[:1] for part in name.lstrip("-").split("-")) for name in names}
    near = [n for n in names if initials[n] == short or n.lstrip("-").startswith(short)]
    return f"No such option: {word}. Did you mean {' or '.join(near)}?" if near else ""
