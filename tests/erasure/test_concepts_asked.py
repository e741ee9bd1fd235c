"""Concepts from a file, and by prompts of the user's own."""

import json
import re
import sys
import warnings
from pathlib import Path

import pytest

from erasure.commandline.main import main
from erasure.concepts import find_concepts
from erasure.edit import Edit
from erasure.erasing import erase, planned
from erasure.errors import SettingError
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.load import load_model
from erasure_datasets.errors import DataWarning

TABLE = 'concept,kind,anchor,templates\nchurch,,a house,"{a name} at night"\nMonet,style,,\n'


@pytest.fixture(scope="module")
def free(sd1: Path) -> LatentDiffusion:
    return load_model(str(sd1))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "concepts.csv"
    file.write_text(TABLE)
    return file


def test_a_file_says_what_the_call_says(free: LatentDiffusion, table: Path) -> None:
    church, monet = find_concepts(free, table, kind="object", template="{a name} by day")
    assert (church.kind, church.anchor, monet.kind, monet.anchor) == (
        "object", "a house", "style", "",
    )  # fmt: skip
    assert church.prompts() == ["a church at night"]
    assert church.anchor_prompts() == ["a house at night"]
    assert monet.prompts() == ["a Monet by day"]


def test_own_prompts_are_those_it_learns_from(sd1: Path, tmp_path: Path, table: Path) -> None:
    of_call = erase(
        str(sd1), "uce", ["church", "Monet"], out=tmp_path / "call", kind=["object", "style"],
        anchor=["a house", ""], template=["{name}"],
    )  # fmt: skip
    of_file = erase(
        str(sd1), "uce", table, out=tmp_path / "file", kind="object", template=["{name}"]
    )
    default = erase(
        str(sd1), "uce", ["church", "Monet"], out=tmp_path / "default",
        kind=["object", "style"], anchor=["a house", ""],
    )  # fmt: skip
    name = next(iter(default.edit.tensors))
    changes = [run.edit.tensors[name] for run in (of_call, of_file, default)]
    assert not any(
        bool((a == b).all()) for a, b in ((changes[0], changes[2]), (changes[0], changes[1]))
    )
    record = json.loads((tmp_path / "file" / "config.json").read_text())
    assert [c["templates"] for c in record["concepts"]] == [["{a name} at night"], ["{name}"]]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "kind must be given for 'church'"),
        ({"kind": ["object", "style"]}, "kind beside a file of concepts must be one for all"),
        ({"kind": "object", "template": "a picture"}, "template must hold {name} or {a name}"),
        ({"kind": "object", "is_drawn": False}, "anchor of church has no effect on this method"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_a_file(
    free: LatentDiffusion, table: Path, more: dict, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        find_concepts(free, table, **more)


def test_an_article_too_many_is_refused(free: LatentDiffusion) -> None:
    with pytest.raises(SettingError, match=r"template must have \{a name\} for 'a house'"):
        find_concepts(free, "cat", kind="object", anchor="a house", template="A {name} at night")


def test_what_the_file_says_of_all_is_not_said_again(free: LatentDiffusion, table: Path) -> None:
    table.write_text("concept,kind,anchor\nchurch,object,a house\nMonet,style,a painting\n")
    with pytest.raises(SettingError, match="kind has no effect"):
        find_concepts(free, table, kind="object")
    with pytest.raises(SettingError, match="anchor has no effect"):
        find_concepts(free, table, anchor="a barn")


def test_a_list_of_the_models_own(listed: Path, tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("Cat\nsketch\n")
    model = load_model(str(listed))
    cat, sketch = find_concepts(model, file)
    assert (cat.name, cat.anchor, sketch.name, sketch.anchor) == ("cat", "dog", "Sketch", "Photo")
    with pytest.raises(SettingError, match=r"template is for free text; .* prompts of its own"):
        find_concepts(model, file, template="a {name}")


def test_the_command(
    sd1: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def given(*words: object) -> int:
        own = ("erasure", "erase", "uce", "--model", sd1, "--out", tmp_path / "run")
        monkeypatch.setattr(sys, "argv", [str(word) for word in (*own, *words)])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    asked = ("--concepts-file", table, "--kind", "object")
    assert given(*asked, "--concept", "tower") == 2
    assert "concept has no effect beside concepts-file" in capsys.readouterr().err
    assert given() == 2
    assert "concept must be given at least once" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert given(*asked, "--template", "{a name}", "--template", "{name}, again") == 0
    church, monet = Edit.load(tmp_path / "run").concepts
    assert church.templates == ("{a name} at night",)
    assert monet.templates == ("{a name}", "{name}, again")


@pytest.mark.parametrize(
    ("method", "names", "more", "is_told"),
    [
        ("esd", ["cat", "Sketch"], {}, True),
        ("esd", ["cat"], {}, False),
        ("esd", ["cat", "Sketch"], {"steps": 40}, False),
        ("gs-lora", ["cat", "Sketch"], {}, False),  # so many for each
        ("uce", ["cat", "Sketch"], {}, False),  # none
    ],
)
def test_several_concepts_that_share_the_steps_of_one_are_told(
    listed: Path, tmp_path: Path, method: str, names: list[str], more: dict, is_told: bool
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        planned(str(listed), method, names, out=tmp_path / "run", **more)
    told = [str(one.message) for one in caught if "share" in str(one.message)]
    wanted = "the 2 concepts share esd's 200 steps, .* --steps 400 would give each as many"
    assert len(told) == is_told
    assert all(re.search(wanted, text) for text in told)
