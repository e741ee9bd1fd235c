"""Settings files and earlier runs: what they give, what goes before them, and bad ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from single_file import write_single_file

Program = Callable[..., tuple[int, str, str]]


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "config.json").read_text())


@pytest.fixture
def given(tmp_path: Path, listed: Path) -> Path:
    file = tmp_path / "mine.toml"
    file.write_text(
        f'concept = ["cat", "tree"]\nmodel = "{listed}"\npreserve-weight = 2\n'
        'erase_weight = 3.5\naverage = true\nanchor = ["dog", ""]\n'
    )
    return file


def test_a_file_gives_what_the_command_line_does_not(
    program: Program, tmp_path: Path, given: Path
) -> None:
    run = tmp_path / "run"
    code, _, err = program(
        "erase", "uce", "--settings", given, "--erase_weight", "1.25", "--out", run
    )
    assert code == 0, err
    found = record(run)
    settings, sources = found["settings"], found["sources"]
    assert (settings["preserve_weight"], settings["erase_weight"]) == (2, 1.25)
    assert settings["average"] is True
    assert [(c["name"], c["anchor"]) for c in found["concepts"]] == [("cat", "dog"), ("tree", "")]
    file, line = "settings file", "command line"
    assert {name: sources[name] for name in ("preserve_weight", "erase_weight", "stay")} == {
        "preserve_weight": file, "erase_weight": line, "stay": "default",
    }  # fmt: skip
    assert sources["model"] == sources["concept"] == file
    assert "out" not in sources


def test_a_later_file_goes_before_an_earlier_one(
    program: Program, tmp_path: Path, given: Path
) -> None:
    later, run = tmp_path / "later.toml", tmp_path / "run"
    later.write_text("erase-weight = 5\n")
    code, _, err = program("erase", "uce", "--settings", given, "--settings", later, "--out", run)
    assert code == 0, err
    settings = record(run)["settings"]
    assert (settings["preserve_weight"], settings["erase_weight"]) == (2, 5)


def test_a_file_goes_before_quick(program: Program, tmp_path: Path, sd1: Path) -> None:
    file, run = tmp_path / "mine.toml", tmp_path / "run"
    file.write_text("quick = true\nsteps = 2\nsampling-steps = 2\n")
    code, _, err = program(
        "erase", "esd", "--settings", file, "--model", sd1, "--concept", "church", "--kind",
        "object", "--out", run, "--no-compile",
    )  # fmt: skip
    assert code == 0, err
    settings, sources = record(run)["settings"], record(run)["sources"]
    assert (settings["steps"], sources["steps"]) == (2, "settings file")
    assert (settings["paths"], sources["paths"]) == (16, "quick")


BAD = [
    ("stai = 1", "has 'stai', which uce does not take. Did you mean stay"),
    ("settings = 'a.toml'", "has 'settings', which uce does not take."),
    ("from = 'a'", "has 'from', which uce does not take."),
    ("stay = '1'", "stay in FILE must be a number; got '1'."),
    ("stay = true", "stay in FILE must be a number; got True."),
    ("seed = 1.5", "seed in FILE must be a whole number; got 1.5."),
    ("average = 1", "average in FILE must be true or false; got 1."),
    ("model = 3.5", "model in FILE must be a text in quotes, or a whole number; got 3.5."),
    ("model = ['a']", "model in FILE must be a text in quotes, or a whole number; got ['a']."),
    ("config = 3", "config in FILE must be a text in quotes; got 3."),
    ("kind = ['object', true]", "must be a text in quotes, or a list of them; got True."),
    ("stay = {a = 1}", "stay in FILE must be a number; got {'a': 1}."),
    ("model = ' '", "model in FILE must not be empty."),
    ("stay = nan", "UCE.stay must be a number; got nan."),
    ("preserve-weight = 0\nretain-prompts = 'a.csv'", "no effect without preserve_weight; got a.c"),
    ("erase-weight = 1\nerase_weight = 2", "FILE has erase-weight twice"),
    ("kind = []", "kind in FILE must name at least one; leave it out for none."),
    ("stay =", "FILE is not readable as TOML: "),
    (b"stay = \xff", "FILE is not readable as TOML: "),
    (None, "settings must be a TOML file; FILE: No such file"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_a_bad_file_is_one_line(
    program: Program, tmp_path: Path, listed: Path, content: str | bytes | None, message: str
) -> None:
    file, run = tmp_path / "mine.toml", tmp_path / "run"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    model = [] if "model" in str(content) else ["--model", listed]
    code, _, err = program(
        "erase", "uce", "--settings", file, *model, "--concept", "cat", "--out", run
    )
    assert code == 2
    assert message.replace("FILE", str(file)) in err
    assert len(err.strip().splitlines()) == 1, err
    assert not run.exists()


@pytest.mark.parametrize(
    ("words", "content", "message"),
    [
        (["forget", "ssd"], 'class = "zebra"\n', "pocket-vit has no class 'zebra'"),
        (["attack", "paraphrase", "RUN"], "count = 0\n", "Paraphrase.count must be at least 1"),
        (["evaluate", "RUN"], 'protocol = "poket"\n', "there is no protocol 'poket'"),
    ],
)
def test_other_commands_take_a_file_too(
    program: Program, tmp_path: Path, listed: Path, words: list[str], content: str, message: str
) -> None:
    run, file = tmp_path / "run", tmp_path / "mine.toml"
    if "RUN" in words:
        assert program("erase", "uce", "--concept", "cat", "--model", listed, "--out", run)[0] == 0
    file.write_text(content)
    out = ["--out", tmp_path / "other"] if words[0] == "forget" else []
    code, _, err = program(*[run if w == "RUN" else w for w in words], "--settings", file, *out)
    assert (code, message in err) == (2, True), err


def test_from_repeats_a_runs_settings_on_another_concept(
    program: Program, tmp_path: Path, given: Path, listed: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert program("erase", "uce", "--settings", given, "--out", first)[0] == 0
    file = tmp_path / "more.toml"
    file.write_text("preserve-weight = 4.0\n")
    code, _, err = program(
        "erase", "uce", "--from", first, "--settings", file, "--stay", "0.75", "--concept", "dog",
        "--out", second,
    )  # fmt: skip
    assert code == 0, err
    found, before = record(second), record(first)
    assert found["settings"] == before["settings"] | {"preserve_weight": 4.0, "stay": 0.75}
    assert found["model"] == str(listed)
    assert [(c["name"], c["anchor"]) for c in found["concepts"]] == [("dog", "tree")]
    names = ("stay", "preserve_weight", "erase_weight", "model", "seed")
    assert [found["sources"][name] for name in names] == [
        "command line", "settings file", "earlier run", "earlier run", "earlier run",
    ]  # fmt: skip
    assert found["repeats"] == str(first)


def test_what_from_cannot_repeat_is_one_line(
    program: Program, tmp_path: Path, listed: Path
) -> None:
    model = shutil.copytree(listed, tmp_path / "model")
    keep, run, out = tmp_path / "keep.csv", tmp_path / "run", tmp_path / "out"
    keep.write_text("prompt\na photo of a river\n")
    made = program(
        "erase", "uce", "--model", model, "--concept", "cat", "--retain-prompts", keep, "--out", run
    )
    assert made[0] == 0, made[2]

    def refused(*words: object, method: str = "uce", source: Path = run) -> str:
        code, _, err = program(
            "erase", method, "--from", source, "--concept", "dog", "--out", out, *words
        )
        assert (code, err.count("\n"), out.exists()) == (2, 1, False), err
        return err

    assert "from must be a run of esd; " in refused(method="esd")
    assert "quick has no effect beside from" in refused("--quick")
    assert "has no config.json of one" in refused(source=tmp_path)
    forgotten = tmp_path / "forgotten"
    forgotten.mkdir()
    (forgotten / "config.json").write_text(json.dumps(record(run) | {"tasks": [["cat"]]}))
    assert "is one of `erasure forget`" in refused(source=forgotten)
    older = tmp_path / "older"
    older.mkdir()
    told = record(run)
    told["settings"]["lambda"] = 1.0
    (older / "config.json").write_text(json.dumps(told))
    assert "was made with lambda, which uce no longer has" in refused(source=older)
    keep.write_text("prompt\na photo of a lake\n")
    assert "holds something else than it did then" in refused()
    keep.write_text("prompt\na photo of a river\n")
    schedule = model / "scheduler" / "scheduler_config.json"
    schedule.write_text(schedule.read_text().replace("0.012", "0.013"))
    assert "has other weights than when" in refused()


def test_from_a_run_on_a_run_erases_further_from_the_same_one(
    program: Program, tmp_path: Path, listed: Path
) -> None:
    below, stacked, again = (tmp_path / name for name in ("below", "stacked", "again"))
    uce = ("erase", "uce", "--concept")
    assert program(*uce, "cat", "--model", listed, "--out", below)[0] == 0
    assert program(*uce, "dog", "--model", below, "--out", stacked)[0] == 0
    code, _, err = program(*uce, "tree", "--from", stacked, "--out", again)
    assert code == 0, err
    assert record(again)["onto"] == record(stacked)["onto"] is not None
    edit = json.loads((again / "edit.json").read_text())
    assert [concept["name"] for concept in edit["concepts"]] == ["cat", "tree"]
    shutil.rmtree(below)
    assert program(*uce, "tree", "--model", listed, "--out", below)[0] == 0
    code, _, err = program(*uce, "dog", "--from", stacked, "--out", tmp_path / "other")
    assert (code, "holds another edit than when" in err) == (2, True), err


def test_from_leaves_the_configs_of_another_model(
    program: Program, tmp_path: Path, sd1: Path
) -> None:
    """A single file's, which a folder does not take."""
    file = write_single_file(sd1, tmp_path / "model.safetensors")
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    named = ("--concept", "cat", "--kind", "object", "--anchor", "dog")
    code, _, err = program(
        "erase", "uce", *named, "--model", file, "--config", sd1, "--stay", "0.7", "--out", first
    )
    assert code == 0, err
    code, _, err = program("erase", "uce", *named, "--from", first, "--model", sd1, "--out", second)
    assert code == 0, err
    assert record(second)["config"] is None
    assert record(second)["settings"] == record(first)["settings"]
    code, _, err = program("erase", "uce", *named, "--from", first, "--out", third)
    assert code == 0, err
    assert record(third)["config"] == str(sd1)
