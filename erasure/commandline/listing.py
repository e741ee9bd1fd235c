"""`erasure list`: methods, models, concepts and plug-ins, by name."""

from typing import Annotated

import typer

from erasure.commandline.methods import told_methods
from erasure.commandline.options import CONTEXT, load
from erasure.errors import SettingError
from erasure.files.naming import checked_path
from erasure.models.built_in import CLASSIFIERS, DIFFUSION, POCKET
from erasure.registry import ATTACKS, CRITERIA, EXPORTS, PROTOCOLS

PLUGINS = {"attacks": ATTACKS, "protocols": PROTOCOLS, "criteria": CRITERIA, "exports": EXPORTS}


def add_to(app: typer.Typer) -> None:
    """Put the command into the program."""
    app.command("list", context_settings=CONTEXT)(_list)


def _list(
    what: Annotated[str, typer.Argument(help=f"methods, models, concepts, {', '.join(PLUGINS)}")],
    model: Annotated[str, typer.Option(help="whose concepts")] = "pocket",
) -> None:
    """List methods, models, a model's concepts, or plug-ins of one kind."""
    if what == "methods":
        lines = told_methods()
    elif what == "models":
        lines = [
            *DIFFUSION,
            *CLASSIFIERS,
            "(any Stable Diffusion 1.x, 2.x, XL, 3, FLUX.1: a diffusers folder, a Hub id, or a "
            ".safetensors with --config)",
        ]
    elif what in PLUGINS:
        lines = PLUGINS[what].names()
    elif what == "concepts":
        folder = POCKET if model in DIFFUSION else checked_path(model, "model").expanduser()
        if not (folder / "concepts.json").is_file():
            raise SettingError(
                f"model must be pocket or a folder with a list of concepts (concepts.json); "
                f"{model} is none. From a model without a list any text can be erased."
            )
        lines = load("erasure_datasets.concept:Catalogue").load(folder / "concepts.json").targets()
    else:
        raise SettingError(
            f"list takes methods, models, concepts, {', '.join(PLUGINS)}; got {what!r}."
        )
    typer.echo("\n".join(lines))
