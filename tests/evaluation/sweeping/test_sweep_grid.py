"""A sweep's grid: its cells and their commands, and what is refused before anything runs."""

from pathlib import Path
from typing import Any

import pytest
import typer

from erasure.commandline.main import app
from erasure.errors import RunError, SettingError
from evaluation.sweeping.cells import cells_of, refuse_another, write_sweep
from evaluation.sweeping.grid import make_grid, read_grid
from evaluation.sweeping.options import OPTIONS, TAKEN

SMALL: dict[str, Any] = {"methods": ["uce"], "concepts": ["bear"]}
EVERYTHING = """
model = "pocket"
methods = ["uce", "esd"]
concepts = ["bear", ["cat", "dog"]]
seeds = [0, 7]
attacks = ["paraphrase"]
quick = true

[settings]
mixed-precision = "bf16"

[settings.esd]
learning_rate = 1e-4

[evaluation]
seeds = [188, 288]

[attack]
prompts = 4

[attack.paraphrase]
count = 2

[concept.bear]
anchor = "cat"
"""


def parse(words: list[str]) -> None:
    """Read a command line as the program does, and stop before it does anything."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "get_command"):
        command, words = command.get_command(None, words[0]), words[1:]
    command.make_context("erasure", list(words))


def test_each_cell_is_the_ordinary_commands_of_one_run(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    file.write_text(EVERYTHING)
    cells = {cell["name"]: cell for cell in cells_of(make_grid(read_grid(file)))}
    assert len(cells) == 2 + 2 * 2  # uce has no seed
    assert "uce/bear/seed-0" in cells
    bear, both = cells["esd/bear/seed-7"], next(c for c in cells.values() if len(c["concepts"]) > 1)
    assert [step["command"] for step in bear["steps"]] == [
        ["erase", "esd", "--concept=bear", "--model=pocket", "--mixed-precision=bf16",
         "--learning-rate=0.0001", "--anchor=cat", "--quick", "--seed=7", "--out", bear["name"]],
        ["evaluate", bear["name"], "--seeds=188,288", "--subset=96"],
        ["attack", "paraphrase", bear["name"], "--prompts=4", "--count=2", "--quick"],
    ]  # fmt: skip
    assert both["steps"][0]["command"][2:4] == ["--concept=cat", "--concept=dog"]
    for cell in cells.values():
        for step in cell["steps"]:
            parse(step["command"])


def test_classes_are_forgotten() -> None:
    (cell,) = cells_of(make_grid({"methods": ["ssd"], "classes": [["cat", "dog"]]}))
    assert cell["steps"][0]["command"][:4] == [
        "forget", "ssd", "--class=cat,dog", "--model=pocket-vit",
    ]  # fmt: skip
    for step in cell["steps"]:
        parse(step["command"])


EVERY_SORT: dict[str, dict[str, Any]] = {
    "diffusion": {"settings": {"contexts": "Crayon", "mixed-precision": "bf16", "erase_weight": 2}},
    "classifier": {"settings": {"workers": 2, "dampening": 1}},
    "attack": {"attacks": ["noise"], "attack": {"budget": 3, "gold": "pocket", "seeds": [188]}},
    "evaluation": {"evaluation": {"protocol": "pocket", "contexts": "Crayon", "subset": "10"}},
}


@pytest.mark.parametrize("sort", EVERY_SORT)
def test_every_option_of_a_command_may_be_in_a_grid(sort: str) -> None:
    of_classes: dict[str, Any] = {"methods": ["ssd"], "classes": ["cat"]}
    asked = of_classes if sort == "classifier" else SMALL
    (cell,) = cells_of(make_grid({**asked, **EVERY_SORT[sort]}))
    for step in cell["steps"]:
        parse(step["command"])


def test_what_the_grid_says_itself_is_an_option_of_the_command() -> None:
    names = {"diffusion": "uce", "classifier": "ssd", "attack": "noise", "evaluation": ""}
    for sort, taken in TAKEN.items():
        assert set(taken) <= {entry.name for entry in OPTIONS[sort](names[sort])}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"methods": ["uec"]}, "there is no diffusion method 'uec'. Did you mean uce"),
    "concept": ({"concepts": ["baer"]}, "knows no concept 'baer'. Did you mean bear"),
    "attack": ({"attacks": ["noize"]}, "there is no attack 'noize'. Did you mean noise"),
    "none": ({"methods": []}, "methods must name at least one"),
    "an empty entry": ({"concepts": [[]]}, "concepts must name at least one"),
    "both": ({"classes": ["cat"]}, "either concepts or classes; the grid has both"),
    "type": ({"seeds": ["0"]}, "the grid is not readable"),
    "seed": ({"seeds": [-1]}, "seeds must be whole numbers from 0 on"),
    "setting": ({"settings": {"uce": {"stepz": 3}}}, "uce takes no 'stepz' in a sweep"),
    "said": ({"settings": {"dry_run": True}}, "uce takes no 'dry_run' in a sweep"),
    "text": ({"settings": {"uce": {"stay": "two"}}}, "stay in options of uce must be a number"),
    "range": ({"settings": {"uce": {"erase_weight": -1}}}, "UCE.erase_weight must be"),
    "no effect": ({"settings": {"uce": {"preserve_weight": 0, "retain_prompts": "a.csv"}}},
                  "UCE.retain_prompts has no effect without preserve_weight"),
    "table": ({"settings": {"esd": {"steps": 3}}}, "[settings.esd] is for nothing in this sweep"),
    "value": ({"settings": {"kind": {"a": 1}}}, "[settings.kind] is for nothing"),
    "evaluation": ({"evaluation": {"sede": 1}}, "evaluation takes no 'sede'"),
    "protocol": ({"evaluation": {"protocol": "poket"}}, "there is no protocol 'poket'"),
    "attack table": ({"attack": {"prompts": 3}}, "[attack] is for nothing in this sweep"),
    "told": ({"concept": {"cat": {"kind": "object"}}}, "[concept.cat] is for nothing"),
    "told what": ({"concept": {"bear": {"colour": "x"}}}, "[concept.bear] has 'colour'"),
    "half told": (
        {"concepts": [["bear", "cat"]], "concept": {"cat": {"anchor": "dog"}}},
        "[concept.bear] must say its anchor too",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "told"), BAD.values(), ids=BAD.keys())
def test_what_is_not_valid_is_one_line(given: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingError) as refused:
        make_grid({**SMALL, **given})
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_class_and_attacks_on_classes() -> None:
    with pytest.raises(SettingError, match="pocket-vit knows no class 'cta'"):
        make_grid({"methods": ["ssd"], "classes": ["cta"]})
    with pytest.raises(SettingError, match="attacks are tried on runs that erase concepts"):
        make_grid({"methods": ["ssd"], "classes": ["cat"], "attacks": ["noise"]})


def test_an_unknown_key_or_no_toml(tmp_path: Path) -> None:
    file = tmp_path / "grid.toml"
    for text, told in (("method = ['uce']", "has 'method', which no sweep takes. Did you mean"),
                       ("methods = [", "is not readable as TOML")):  # fmt: skip
        file.write_text(text)
        with pytest.raises(SettingError, match=told):
            read_grid(file)


@pytest.mark.parametrize("given", [{"methods": ["uce", "uce"]}, {"concepts": ["bear", "Bear"]}])
def test_two_cells_of_one_name(given: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="two cells of the sweep would be called uce/bear"):
        cells_of(make_grid({**SMALL, **given}))


def test_a_sweep_may_grow_and_not_become_another(tmp_path: Path) -> None:
    def cells(**more: Any) -> Any:
        return cells_of(make_grid({**SMALL, "methods": ["esd"], **more}))

    refuse_another(tmp_path / "new", cells())
    write_sweep(tmp_path, {}, cells())
    for more in ({"methods": ["salun", "esd"]}, {"seeds": [1, 0]}, {"attacks": ["noise"]}):
        refuse_another(tmp_path, cells(**more))
    with pytest.raises(RunError, match="holds another sweep: it has esd/bear/seed-0, which"):
        refuse_another(tmp_path, cells(seeds=[1]))
    with pytest.raises(RunError, match="esd/bear/seed-0 was asked for by `erasure erase esd"):
        refuse_another(tmp_path, cells(quick=True))
    other = tmp_path / "other"
    (other / "things").mkdir(parents=True)
    with pytest.raises(RunError, match="holds other things, as things"):
        refuse_another(other, cells())


def test_a_method_without_chance_has_one_cell() -> None:
    grid = make_grid({"methods": ["esd", "uce"], "concepts": ["cat"], "seeds": [3, 7]})
    assert grid.places() == [("esd", ("cat",), 3), ("uce", ("cat",), 0), ("esd", ("cat",), 7)]


def test_a_switch_that_is_the_models_own_is_known() -> None:
    """pocket-vit's preset of gs-lora has prototypes on, pocket's of esd something to keep."""
    make_grid({"methods": ["gs-lora"], "classes": ["cat"], "settings": {"prototype_bound": 5.0}})
    esd = {**SMALL, "methods": ["esd"], "settings": {"retain_prompts": "a.csv"}}
    make_grid(esd)
    make_grid({**esd, "model": "some/model"})  # of which only its cells know
    with pytest.raises(SettingError, match="retain_prompts has no effect without retain_weight"):
        make_grid({**esd, "settings": {"retain_prompts": "a.csv", "retain_weight": 0}})
