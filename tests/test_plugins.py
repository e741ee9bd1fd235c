"""Plug-ins: methods, attacks, protocols, criteria and export forms of files outside the package."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from erasure.errors import SettingError
from erasure.registry import (
    ATTACKS,
    CRITERIA,
    EXPORTS,
    METHODS,
    PROTOCOLS,
    Registry,
    load_plugin,
    name_of,
)

METHOD = '''
"""Scaled: multiply the cross-attention's values.

Changes: the values of the cross-attention.
"""
from dataclasses import asdict, dataclass

import torch

from erasure.config import check, setting
from erasure.edit import Edit
from erasure.registry import METHODS


@METHODS.register
@dataclass(frozen=True)
class Scaled:
    factor: float = setting(0.5, help="what values are multiplied with", above=0)

    def __post_init__(self):
        check(self)

    def erase(self, model, concepts, run):
        weights = model.weights("xattn.kv")
        model.remember(weights)
        with torch.no_grad():
            for weight in weights.values():
                weight.mul_(self.factor)
        return Edit.between(model, concepts, "scaled", asdict(self))
'''
ATTACK = '''
"""Shout: ask in capitals."""
from dataclasses import dataclass

from erasure.config import check, setting
from erasure.registry import ATTACKS
from evaluation.attacking.scene import KEPT, Found
from evaluation.attacks import Attack


@ATTACKS.register
@dataclass(frozen=True)
class Shout(Attack):
    marks: int = setting(1, help="exclamation marks", at_least=0)

    def __post_init__(self):
        check(self)

    def attack(self, scene, cases):
        asked = [case.prompt.upper() + "!" * self.marks for case in cases]
        won = scene.wins(asked, cases, KEPT).tolist()
        return [Found(hit, 1, text) for hit, text in zip(won, asked, strict=True)]
'''
PROTOCOL = '''
"""Dark: how dark one image of each concept is."""
from dataclasses import asdict

import torch

from erasure.registry import PROTOCOLS
from evaluation.protocols import Asked, Protocol
from evaluation.score import Score
from evaluation.scored import write_record


@PROTOCOLS.register
class Dark(Protocol):
    def evaluate(self, asked: Asked):
        generators = [torch.Generator().manual_seed(0) for _ in asked.concepts]
        drawn = asked.model.generate(
            list(asked.concepts), steps=2, guidance=1, generators=generators
        )
        scores = {"Dark": Score(1 - drawn.float().mean().item() / 255, 0.0, len(drawn))}
        file = asked.folder / "scores" / "dark.json"
        return write_record(file, "dark", scores, {}, {}, {}, stamp={"steps": 2})
'''
CRITERION = '''
"""Always: every image shows everything."""
import torch

from erasure.registry import CRITERIA
from evaluation.criteria import Criterion


@CRITERIA.register
class Always(Criterion):
    name = "always"

    @classmethod
    def of(cls, value, model, concept):
        return cls()

    def __call__(self, images):
        return torch.ones(len(images), dtype=torch.bool)
'''
FORM = '''
"""Names: the names of the changed tensors, as a text."""
from erasure.exports.forms import Form
from erasure.registry import EXPORTS


@EXPORTS.register
class Names(Form):
    def write(self, edit, model, folder, dtype):
        (folder / "names.txt").write_text("\\n".join(sorted(edit.tensors)))

    def usage(self, edit, model):
        return ["A list.", ""]
'''
FILES = {
    "scaled": METHOD, "shout": ATTACK, "dark": PROTOCOL, "always": CRITERION, "names": FORM,
}  # fmt: skip


def erasure(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "erasure", *map(str, words)],
        capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, check=False,
    )  # fmt: skip


@pytest.mark.usefixtures("plugin")  # what is loaded here is forgotten again
def test_plugins_of_every_kind_from_the_command_line(
    program: Callable[..., tuple[int, str, str]], listed: Path, tmp_path: Path
) -> None:
    given = []
    for stem, text in FILES.items():
        (tmp_path / f"{stem}.py").write_text(text)
        given += ["--plugin", tmp_path / f"{stem}.py"]
    run, out = tmp_path / "run", tmp_path / "out"
    asked = ("--model", listed, "--concept", "cat", "--factor", "0.25")
    code, _, err = program("erase", "scaled", *given, *asked, "--out", run)
    assert code == 0, err
    record = json.loads((run / "config.json").read_text())
    assert record["settings"] == {"factor": 0.25}
    assert record["inputs"].keys() == {str((tmp_path / "scaled.py").resolve())}
    code, told, err = program("evaluate", run, "--protocol", "dark", *given)
    assert code == 0, err
    assert "Dark" in told
    assert 0 < json.loads((run / "scores" / "dark.json").read_text())["scores"]["Dark"]["value"] < 1
    attack = ("--prompts", "1", "--seeds", "188", "--criterion", "always")
    code, _, err = program("attack", "shout", run, *attack, *given)
    assert code == 0, err
    assert json.loads((run / "attacks" / "shout.json").read_text())["scores"]["ASR"]["value"] == 1
    code, _, err = program("export", run, out, "--to", "names", *given)
    assert code == 0, err
    assert "unet" in (out / "names.txt").read_text()
    # another file under the same name is another run
    (tmp_path / "scaled.py").write_text(METHOD + "\n")
    done = erasure("erase", "scaled", *given, *asked, "--out", run)
    assert done.returncode == 2
    assert "different run" in done.stderr


def test_help_and_lists_know_plugins(tmp_path: Path) -> None:
    (tmp_path / "scaled.py").write_text(METHOD)
    given = ("--plugin", tmp_path / "scaled.py")
    assert "multiply the cross-attention's values" in erasure(*given, "list", "methods").stdout
    told = erasure("erase", "scaled", "--help", *given).stdout
    assert "--factor" in told
    assert "what values are multiplied with" in told
    assert "scaled" not in erasure("list", "methods").stdout


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.py", None, "plugin must be a Python file"),
        ("text.txt", "x", "plugin must be a Python file"),
        ("broken.py", "def", r"broken\.py could not be loaded: SyntaxError"),
        ("failing.py", "1 / 0", r"failing\.py could not be loaded: ZeroDivisionError"),
        ("leaving.py", "raise SystemExit", r"leaving\.py could not be loaded: SystemExit"),
        ("empty.py", "x = 1", r"empty\.py registers nothing"),
        ("paraphrase.py", ATTACK, "the attack 'paraphrase' is there already"),
        ("all.py", ATTACK, "attack 'all' is there already"),
        ("two.py", ATTACK + ATTACK.replace("Shout", "Again"), r"two\.py must have one attack"),
    ],
)
@pytest.mark.usefixtures("plugin")
def test_refused_in_one_line(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    known = ATTACKS.names()
    with pytest.raises(SettingError, match=message) as refused:
        load_plugin(tmp_path / name)
    assert "\n" not in str(refused.value)
    assert ATTACKS.names() == known or name == "two.py"


def test_a_plugin_is_loaded_once(tmp_path: Path, plugin: Callable[[Path, str], Path]) -> None:
    file = plugin(tmp_path / "shout.py", ATTACK)
    load_plugin(file)
    assert "shout" in ATTACKS.names()
    (tmp_path / "other").mkdir()
    with pytest.raises(SettingError, match="'shout' is there already"):
        plugin(tmp_path / "other" / "shout.py", ATTACK + "\n")


def test_packages_offer_plugins_by_their_entry_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loud.py").write_text(ATTACK)
    folder = tmp_path / "loud-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[erasure]\nloud = loud\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    assert "loud" in erasure("list", "attacks").stdout.split()
    (tmp_path / "loud.py").write_text("1 / 0")
    done = erasure("list", "attacks")
    assert done.returncode == 2
    assert "the plug-in loud (loud) could not be loaded: ZeroDivisionError" in done.stderr


KINDS = [*METHODS.kinds.values(), EXPORTS, ATTACKS, PROTOCOLS, CRITERIA]


@pytest.mark.parametrize("known", KINDS, ids=[kind.noun for kind in KINDS])
def test_every_file_has_one_class_of_its_name(known: Registry[object]) -> None:
    names = known.names()
    assert names
    for name in names:
        assert name_of(known.get(name)) == name
        assert known.docstring(name).strip()
