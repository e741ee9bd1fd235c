"""`erasure train`: a classifier from random weights.

Everything heavy is named by a string and imported when the command runs.
"""

import json
from pathlib import Path
from typing import Any

import typer

from erasure.commandline.options import (
    CONTEXT,
    argument,
    given_settings,
    load,
    option,
    setting_options,
    with_options,
)
from erasure.commandline.printing import say
from erasure.errors import SettingError

TEXT = """Train an image classifier from random weights, in minutes where it and its data are small.

The folder opens as --model of forget, and `forget retrain` repeats its recipe. The same command
goes on with a training that was interrupted.
"""


def add_to(app: typer.Typer) -> None:
    """Put the command into the program."""
    app.command("train", context_settings=CONTEXT)(_train_command())


def _train_command() -> Any:
    architecture = argument(
        "architecture", str, ...,
        "a name of timm's (resnet18, vit_tiny_patch16_224), or torchvision:NAME",
    )  # fmt: skip
    texts: list[tuple[str, Any, Any, str]] = [
        ("data", str, ..., "images: a folder of images or parquet, hf:NAME, or canvas"),
        ("out", Path, ..., "the classifier's folder"),
        ("size", int, 32, "side of its pictures, in pixels"),
        (
            "stem", str | None, None,
            "cifar: 3 x 3, stride 1, no pooling, as ResNets get it up to 64 pixels; own: their own",
        ),
        (
            "argument", list[str] | None, None,
            "one of the network's own, NAME=VALUE, as patch_size=4 or channels=16,32,64,128",
        ),
        ("images", int, 0, "training images per class; 0 for all"),
        ("test_images", int, 0, "held-out images per class; 0 for all"),
        ("workers", int, 0, "threads that read pictures; 0 for one per core"),
        ("seed", int, 0, "seed of everything random"),
        ("mixed_precision", str, "no", "no or bf16"),
        ("report_to", str | None, None, "tensorboard, wandb or another accelerate tracker"),
        ("quick", bool, False, "one pass, to see that it works"),
    ]  # fmt: skip
    common = [architecture, *(option(*line) for line in texts)]

    def command(origins: Any, **values: Any) -> None:
        same = [entry.name for entry in common[1:] if entry.name != "argument"]
        given = dict(_argument(text) for text in values["argument"] or [])
        load("erasure.from_scratch:train")(
            values["architecture"], arguments=given, origins=origins,
            **{name: values[name] for name in same}, **given_settings(values, common),
        )  # fmt: skip
        told = json.loads((values["out"] / "training.json").read_text())
        shown = [f"{told['images'][part]} {part} images: {share:.3f} right"
                 for part, share in told["accuracy"].items()]  # fmt: skip
        say(f"{values['out']} written; {', '.join(shown)}")

    settings = setting_options(load("erasure.training.one_cycle:OneCycle"))
    return with_options(command, [*common, *settings], TEXT)


def _argument(text: str) -> tuple[str, Any]:
    """NAME=VALUE with numbers, true and false as what they are, and commas as a list."""
    name, sign, value = text.partition("=")
    if not sign or not name.strip() or not value.strip():
        raise SettingError(f"argument must be NAME=VALUE; got {text!r}.")
    parts = [_value(part) for part in value.split(",")]
    return name.strip().replace("-", "_"), parts if len(parts) > 1 else parts[0]


def _value(text: str) -> str | int | float | bool:
    try:
        found = json.loads(text)
    except ValueError:
        return text.strip()
    return found if isinstance(found, int | float | bool) else text.strip()
