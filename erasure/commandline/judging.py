"""`erasure attack ATTACK` and `erasure evaluate`: one option per field of a plug-in's dataclass.

Everything heavy is named by a string and imported when its command runs.
"""

import inspect
import sys
from pathlib import Path
from typing import Any

import typer

from erasure.commandline.options import (
    BASE,
    LazyGroup,
    argument,
    built,
    given_settings,
    load,
    option,
    seeds_of,
    setting_options,
    shared_options,
    with_options,
)
from erasure.commandline.printing import print_scores, say
from erasure.registry import ATTACKS

SHARED = ("on", "address", "shards", "cpus", "gpus")
GOLD = "a model that never knew the concept, to compare with: pocket, a folder, a run of erase gold"


class AttackGroup(LazyGroup):
    """`erasure attack ATTACK`."""

    noun = "attack"

    def list_commands(self, ctx: Any) -> list[str]:
        return [*ATTACKS.names(), "all"]

    def build(self, name: str) -> Any:
        return _attack_command(name)


def _common_options() -> list[inspect.Parameter]:
    run = argument("run", Path, ..., "a run's folder")
    texts: list[tuple[str, Any, Any, str]] = [
        ("concept", list[str] | None, None, "attack these concepts instead of the run's own"),
        (
            "criterion", str, "judge",
            "what counts as drawn: judge, judge=FOLDER, clip, clip=NAME:PRETRAINED, clip=FOLDER, "
            "nudenet=PRESET, file.py:function, or several joined by +",
        ),
        ("prompts", str, "16", "prompts per concept: how many, a file of them, or FILE:N"),
        ("seeds", str, "188,288", "comma-separated: 188,288,588,688,888"),
        ("budget", float | None, None, "seconds at most for each concept; of all attacks, for all"),
        ("seed", int, 0, "seed of the search"),
        ("quick", bool, False, "the attack's smoke-run values"),
        ("base", str | None, None, BASE),
        ("gold", str | None, None, GOLD),
    ]  # fmt: skip
    return [run, *(option(*line) for line in texts)]


def attack_options(name: str) -> list[inspect.Parameter]:
    """The options of `attack NAME`: the common ones and one per field of the attack's dataclass."""
    return [*_common_options(), *([] if name == "all" else setting_options(ATTACKS.get(name)))]


def _attack_command(name: str) -> Any:
    common = _common_options()

    def command(origins: Any, **values: Any) -> None:
        same = ("criterion", "prompts", "budget", "seed", "quick", "base", "gold")
        options = {key: values[key] for key in same}
        options |= {"concepts": values["concept"], "seeds": seeds_of(values["seeds"])}
        if name == "all":
            record = load("evaluation.attacking.every_attack:attack_all")(values["run"], **options)
        else:
            record = load("evaluation.attacking.attacking:attack")(
                values["run"], name, **options, **given_settings(values, common), origins=origins
            )
        print_scores(record)
        say(f"{values['run'] / 'attacks' / name}.json written, {record['seconds']:.0f} s")

    text: str | None = "Every attack in turn, and the worst case of each prompt."
    if name != "all":
        text = inspect.getdoc(inspect.getmodule(ATTACKS.get(name)))
    return built(name, command, attack_options(name), text)


def _evaluation_options() -> list[inspect.Parameter]:
    run = argument("run", Path | None, None, "a run's folder")
    texts: list[tuple[str, Any, Any, str]] = [
        ("model", str | None, None, "an un-erased model instead of a run"),
        ("images", Path | None, None, "a folder of images that any tool drew, instead of a run"),
        ("out", Path | None, None, "where the scores of --model or --images go"),
        ("protocol", str | None, None, "how to judge; what fits the run if not given"),
        ("concept", list[str] | None, None, "score these targets instead of the run's own"),
        ("seeds", str | None, None, "comma-separated, of 188,288,588,688,888; all, for pocket two"),
        (
            "subset", str | None, None,
            "pocket: judge only this many images, all of the target's first seed in them; "
            "unlearncanvas: 10x5 for ten styles and five objects beside the targets; "
            "random-forgetting: at most so many images of each part",
        ),
        (
            "reference", Path | None, None,
            "what to compare with: a retrained classifier's run; unlearncanvas: the folder of the "
            "un-erased model's own evaluation, which is drawn otherwise",
        ),
        ("base", str | None, None, BASE),
        ("gold", str | None, None, GOLD),
        ("on", str, "local", "local: this process; ray: processes on a Ray cluster share the work"),
        ("address", str | None, None, "ray: the cluster's, or auto for the one of this machine"),
        ("shards", int | None, None, "ray: how many processes; one per GPU, or else per node"),
        ("cpus", int | None, None, "ray: cores for each; one if not given"),
        ("gpus", float | None, None, "ray: GPUs for each; one if there are any"),
    ]  # fmt: skip
    return [run, *(option(*line) for line in texts)]


def evaluate_options() -> list[inspect.Parameter]:
    """The options of `evaluate`, with the settings of the protocols among them."""
    settings = [
        load("evaluation.unlearncanvas.settings:UnlearnCanvasSettings"),
        load("evaluation.prompts.settings:PromptsSettings"),
        load("evaluation.drawing.pocket_settings:PocketSettings"),
        load("evaluation.corrective_settings:CorrectiveSettings"),
    ]
    return [*_evaluation_options(), *shared_options(settings)]


def evaluate_command() -> Any:
    """`erasure evaluate`."""
    common = _evaluation_options()

    def command(_origins: Any, **values: Any) -> None:
        how = load("evaluation.sweeping.sharded:Shards")(*(values[name] for name in SHARED))
        if how.on == "ray":
            typer.echo(load("evaluation.sweeping.sharded:evaluate_on_ray")(sys.argv[1:], how))
            return
        seeds, own = values["seeds"], ("run", "concept", "seeds", *SHARED)
        record = load("evaluation.evaluating:evaluate")(
            values["run"], concepts=values["concept"],
            seeds=None if seeds is None else seeds_of(seeds),
            **{entry.name: values[entry.name] for entry in common if entry.name not in own},
            **given_settings(values, common),
        )  # fmt: skip
        print_scores(record)

    text = """Draw a protocol's images with a run's model, judge them and print the scores.

    The un-erased model's scores stand beside them. Images of other tools are judged as they are.
    """
    return with_options(command, evaluate_options(), inspect.cleandoc(text))
