"""Kills: commands that die at a random moment, once or twice, and are given again.

Nothing may be lost: the end must be what an uninterrupted command leaves, to the last bit.
"""

import importlib.util
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torture_ground import Ended, command, contents, leftovers, run

from erasure.commandline.main import complaint
from erasure.erasing import erase

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))  # its miniatures and settings are those of the contract tests
FEW = ["--seeds", "188", "--prompts", "2"]


@dataclass(frozen=True)
class Case:
    """Work that writes into `folder`, which is a copy of `made` before, if that is named."""

    work: Callable[[], object]
    folder: Path
    made: Path | None = None

    def begin(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.made:
            shutil.copytree(self.made, self.folder)


def cases(place: Path) -> dict[str, Case]:
    """Every method at the size of a miniature, and every command on one of their runs."""
    from contract import TINY, every_method
    from contract import Case as Contract
    from miniatures import build_miniature
    from networks import image_folder, timm_folder

    forgetting = _module("test_forgetting", TESTS / "erasure" / "test_forgetting.py")
    models, runs = place / "models", place / "runs"
    if not (models / "sd1").exists():
        build_miniature(models / "sd1", "1")
    if not (models / "vit").exists():
        timm_folder(models / "vit" / "model")
        image_folder(models / "vit" / "images")
    found = dict[str, Case]()
    for method in every_method():
        steps = {"checkpoint_seconds": 0} if "steps" in TINY[method] else {}
        found[f"erase {method}"] = Case(
            _call(Contract(method, models / "sd1").run, runs / method, **steps), runs / method
        )
    for method in forgetting.NAMES:
        out = runs / f"forget-{method}"
        is_of_samples = method in forgetting.SAMPLES_ONLY
        tasks = [] if is_of_samples else [["red"], ["blue"]]
        more = {"samples": ["red/1.png"]} if is_of_samples else {}
        work = _call(forgetting.run_one, method, models / "vit", tasks, out=out, **more)
        found[f"forget {method}"] = Case(work, out)
    below = {name: runs / f"below-{name}" for name in ("uce", "gs-lora")}
    for name, folder in below.items():
        if not (folder / "edit.json").exists():
            work = _call(
                erase, str(models / "sd1"), name, ["cat", "dog"], out=folder, kind="object",
                anchor="house", **TINY[name],
            )  # fmt: skip
            ended = run(work)
            if ended.code:
                raise RuntimeError(ended.said)
    run_of_uce = runs / "judged"
    judged = ["--steps", "2", "--clip", "pocket", "--keep", "6", "--seeds", "188"]
    told = {
        "evaluate": command("evaluate", run_of_uce, *judged),
        "attack": command("attack", "paraphrase", run_of_uce, *FEW, "--count", "2",
                          "--criterion", "clip=pocket"),
        "report": command("report", run_of_uce, "--out", run_of_uce / "page.html"),
    }  # fmt: skip
    found |= {name: Case(work, run_of_uce, below["uce"]) for name, work in told.items()}
    for form in ("diffusers", "single-file", "delta"):
        out = runs / f"export-{form}"
        found[f"export {form}"] = Case(command("export", below["uce"], out, "--to", form), out)
    undone = runs / "undone"
    words = ["undo", below["gs-lora"], "--concept", "cat", "--out", undone]
    found["undo"] = Case(command(*words), undone)
    return found


def kill(case: Case, whole: dict[str, str], seconds: float, rng: random.Random) -> dict:
    """One or two kills at random moments, then the command to its end: what came of it."""
    case.begin()
    kills, tracebacks = 0, 0
    for _ in range(rng.choice((1, 1, 2))):
        ended = run(case.work, kill_after=rng.uniform(0, seconds))
        kills += ended.code == -9
        tracebacks += not ended.is_clean and ended.code != -9
    ended = finish(case)
    found = contents(case.folder)
    unlike = sorted(k for k in whole.keys() | found.keys() if whole.get(k) != found.get(k))
    return {
        "kills": kills, "lost": ended.code != 0 or bool(unlike), "unlike": unlike,
        "tracebacks": tracebacks + (not ended.is_clean), "leftovers": leftovers(case.folder),
        "said": "" if ended.code == 0 else ended.said[-500:],
    }  # fmt: skip


def finish(case: Case) -> Ended:
    """Give the command; where it says that its new folder is there already, all of it is."""
    ended = run(case.work)
    is_there = ended.is_refusal and "exists" in ended.said and case.folder.is_dir()
    return Ended(0, "", ended.seconds) if is_there else ended


def _call(work: Callable[..., object], *given: Any, **named: Any) -> Callable[[], None]:
    """A call as the command line makes it: an error that users can mend is one line and code 2."""

    def run() -> None:
        try:
            work(*given, **named)
        except Exception as error:
            told = complaint(error)
            if told is None:
                raise
            print(f"erasure: {told}", file=sys.stderr)
            sys.exit(2)

    return run


def _module(name: str, file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
