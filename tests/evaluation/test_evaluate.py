"""Which protocol is called, with what, and where its record goes."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from erasure.commandline.main import main
from erasure.edit import Edit
from erasure.erasing import erase
from erasure.errors import ErasureError, RunError, SettingError
from erasure.models.diffusion.load import load_model
from erasure.registry import PROTOCOLS
from evaluation.drawing.pocket_plan import catalogue, find_targets, plan, shots
from evaluation.evaluating import evaluate, read_scores
from evaluation.pictures import before_and_after
from evaluation.protocols import pocket
from evaluation.scored import free_file

DUMMY = """
from evaluation.protocols import Asked, Protocol
from evaluation.scored import write_record
from erasure.registry import PROTOCOLS


@PROTOCOLS.register
class TwoWords(Protocol):
    takes = frozenset({"seeds"})

    def evaluate(self, asked: Asked):
        told = {"images": str(asked.images), "seeds": asked.seeds, "concepts": asked.concepts}
        file = asked.folder / "scores" / "two-words.json"
        return write_record(file, "two-words", {}, {}, {}, {}, stamp=told)
"""


@pytest.fixture
def more(tmp_path: Path, plugin: Callable[[Path, str], Path]) -> None:
    """A further protocol."""
    plugin(tmp_path / "two_words.py", DUMMY)


@pytest.mark.usefixtures("more")
def test_a_protocol_of_ones_own_is_called(tmp_path: Path) -> None:
    assert {"two-words", "pocket", "class-forgetting"} <= set(PROTOCOLS.names())
    images, out = tmp_path / "images", tmp_path / "out"
    record = evaluate(images=images, out=out, protocol="two_words", seeds=(3,), concepts=["x"])
    assert record["stamp"] == {"images": str(images), "seeds": (3,), "concepts": ("x",)}
    assert json.loads((out / "scores" / "two-words.json").read_text())["protocol"] == "two-words"


@pytest.mark.usefixtures("more")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "nothing"}, "there is no protocol 'nothing'. Did you mean"),
        ({"protocol": "two-word"}, "there is no protocol 'two-word'. Did you mean two-words"),
        ({"protocol": "two-words", "subset": 5}, "two-words takes no subset; it takes seeds"),
        ({"protocol": "two-words", "reference": Path()}, "two-words takes no reference"),
        (
            {"protocol": "two-words", "steps": 5},
            "steps is no setting of the protocol two-words; it has none",
        ),
        ({"protocol": "pocket", "reference": Path()}, "takes no reference; it takes seeds, subset"),
        ({"protocol": "continual"}, "continual is for runs of `erasure forget`"),
        ({"protocol": "pocket", "seeds": ()}, "seeds must name at least one; got none"),
        ({"protocol": "pocket", "seeds": (188, 188)}, "seeds must .*differ; got 188, 188"),
        ({"protocol": "pocket", "subset": 0}, "subset must be in 17 to 256; got 0"),
        ({"protocol": "pocket", "subset": -1}, "number of images .*; got '-1'"),
        ({"protocol": "pocket", "subset": "10x"}, "number of images .*; got '10x'"),
        ({"protocol": "pocket", "subset": 20.7}, "number of images .*; got '20.7'"),
        ({"protocol": "pocket", "concepts": ["cat", "Cat"]}, "concept names must differ"),
        ({"protocol": "pocket", "concepts": ["cat", "dok"]}, "knows no concept 'dok'"),
        ({"concepts": ["Dogs", "dogs"]}, "concept names must differ"),
    ],
)
def test_refused_in_one_line(tmp_path: Path, options: dict[str, object], message: str) -> None:
    more = {"concepts": ["cat"], **options}
    with pytest.raises(SettingError, match=message) as refused:
        evaluate(images=tmp_path / "images", out=tmp_path / "out", **more)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_class_protocols_refuse_what_they_do_not_take(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"tasks": [["cat"]]}')
    for options, message in (
        ({"seeds": (188,)}, "class-forgetting takes no seeds; it takes reference"),
        ({"subset": 20}, "class-forgetting takes no subset"),
        ({"clip": "x"}, "clip is no setting of the protocol class-forgetting"),
        ({"protocol": "pocket"}, "pocket is for runs of `erasure erase`"),
    ):
        with pytest.raises(SettingError, match=message):
            evaluate(tmp_path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["[]", "null", '{"tasks": 3}', "{", "\xe9", '{"tasks": [[1]]}'])
def test_a_damaged_record_of_a_run_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ErasureError, match=r"config\.json is not readable"):
        evaluate(tmp_path)


def test_where_the_scores_of_others_may_go(tmp_path: Path) -> None:
    file, run, mine = tmp_path / "file", tmp_path / "run", tmp_path / "mine"
    file.write_text("")
    for folder, name in ((run, "edit.json"), (mine, "thesis.tex")):
        folder.mkdir()
        (folder / name).write_text("{}")
    for out, message in (
        (file, "out must be a folder; got the file"),
        (run, "out must not be a run"),
        (mine, "out must be a new folder"),
    ):
        with pytest.raises(SettingError, match=message):
            evaluate(images=tmp_path, out=out, protocol="pocket")
        assert not (out / "scores").exists()
    with pytest.raises(SettingError, match="images must be a folder"):
        evaluate(images=file, out=tmp_path / "new", protocol="pocket")


def test_names_of_records(tmp_path: Path) -> None:
    stamp = {"protocol": "pocket", "seeds": [188, 288], "steps": 12, "versions": {"torch": "1"}}
    usual = (188, 288)

    def named(asked: dict[str, object], **more: object) -> str:
        return free_file(tmp_path, stamp | asked, ["cat"], usual=usual, **more).name  # type: ignore[arg-type]

    assert named({}) == "pocket.json"
    assert named({"seeds": [188]}) == "pocket-seeds-188.json"
    assert named({"seeds": [188]}, subset=24) == "pocket-seeds-188-24-subset.json"
    assert named({}, is_own=False) == "pocket-of_cat.json"
    (tmp_path / "scores").mkdir()
    record = {"protocol": "pocket", "scores": {}, "per_concept": {"cat": {}}, "stamp": stamp}
    (tmp_path / "scores" / "pocket.json").write_text(json.dumps(record))
    assert named({"versions": {"torch": "2"}, "new": 1}) == "pocket.json"
    with pytest.raises(RunError, match=r"scores with steps 12, not 13; move it away"):
        named({"steps": 13})
    with pytest.raises(RunError, match=r"scores with targets cat, not none"):
        free_file(tmp_path, stamp, [], usual=usual)
    (tmp_path / "scores" / "pocket.json").write_text(json.dumps(record)[:20])
    with pytest.raises(RunError, match=r"is not readable .*; move it away"):
        named({})


def test_scores_are_found_by_old_names_and_new_ones(tmp_path: Path) -> None:
    scores = tmp_path / "scores"
    scores.mkdir()

    def write(name: str) -> None:
        record = {"protocol": "pocket-subset", "scores": {}, "stamp": {"name": name}}
        (scores / f"{name}.json").write_text(json.dumps(record))

    with pytest.raises(SettingError, match="no scores under pocket-subset; run `erasure evaluate"):
        read_scores(tmp_path, "pocket-subset")
    write("pocket-20-subset")
    with pytest.raises(SettingError, match="no scores under prompts; it has pocket-20-subset"):
        read_scores(tmp_path, "prompts")
    assert read_scores(tmp_path, "pocket-subset")["stamp"]["name"] == "pocket-20-subset"
    write("pocket-24-subset")
    with pytest.raises(SettingError, match="one of pocket-20-subset, pocket-24-subset"):
        read_scores(tmp_path, "pocket-subset")
    write("pocket-subset")
    assert read_scores(tmp_path, "pocket-subset")["stamp"]["name"] == "pocket-subset"
    (scores / "pocket-subset.json").write_text("[]")
    with pytest.raises(RunError, match=r"pocket-subset\.json is not readable"):
        read_scores(tmp_path, "pocket-subset")


def answers(place: Path, seeds: tuple[int, ...] = (188,)) -> Path:
    place.mkdir()
    for seed in seeds:
        for number, shot in enumerate(shots(plan((seed,), None, []))):
            Image.new("RGB", (64, 64), (number, 0, 0)).save(place / shot.file)
    return place


def test_parts_stand_beside_one_another(tmp_path: Path) -> None:
    """Two sizes of a part, one after the other: nothing is overwritten."""
    images, out = answers(tmp_path / "images"), tmp_path / "out"
    options = {"images": images, "out": out, "protocol": "pocket", "seeds": (188,)}
    for subset in (18, 20):
        evaluate(concepts=["cat"], subset=subset, **options)  # type: ignore[arg-type]
    names = ["pocket-18-subset", "pocket-20-subset"]
    assert sorted(file.stem for file in (out / "scores").iterdir()) == names
    assert [read_scores(out, name)["stamp"]["images"] for name in names] == [18, 20]
    before = (out / "scores" / "pocket-20-subset.json").read_bytes()
    with pytest.raises(RunError, match=r"scores with targets cat, not dog"):
        evaluate(concepts=["dog"], subset=20, **options)  # type: ignore[arg-type]
    assert (out / "scores" / "pocket-20-subset.json").read_bytes() == before


def test_everything_erased_leaves_scores_out_and_says_so(tmp_path: Path) -> None:
    record = evaluate(
        images=answers(tmp_path / "images"), out=tmp_path / "out", protocol="pocket",
        seeds=(188,), concepts=list(catalogue().objects),
    )  # fmt: skip
    assert set(record["scores"]) == {"UA", "UA_own", "CRA_target"}
    assert set(record["left_out"]) == {"IRA", "CRA", "CLIP", "FID", "KID"}
    written = (tmp_path / "out" / "scores" / "pocket-seeds-188.json").read_text()
    assert "NaN" not in written


def test_a_run_erased_anew_is_not_judged_by_its_old_pictures(tmp_path: Path) -> None:
    model, run = load_model("pocket-one-step"), tmp_path / "run"
    weights = {n: w.detach() for n, w in model.weights("xattn.kv").items() if "to_v" in n}
    how = {"sampling": model.sampling}
    for share in (0.5, 0.25):
        edit = {name: weight * share for name, weight in weights.items()}
        Edit(edit, "by hand", find_targets(["cat"]), "pocket-one-step", **how).save(run)  # type: ignore[arg-type]
        if share == 0.5:
            evaluate(run, subset=17)
    record = (run / "scores" / "pocket-17-subset.json").read_bytes()
    with pytest.raises(RunError, match="images of another edit"):
        evaluate(run, subset=17)
    assert (run / "scores" / "pocket-17-subset.json").read_bytes() == record


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (("cat", "butterfly"), ["cat", "bird"]),
        (("Winter", "Blueprint"), ["Winter", "Comic Etch"]),
        (("cat", "Winter"), ["cat", "bird"]),
    ],
)
def test_what_is_shown_as_kept_is_not_erased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str], rows: list[str]
) -> None:
    drawn: list[str] = []

    def draw(_: object, asked: list, *__: object, **___: object) -> torch.Tensor:
        drawn.extend(shot.prompt for shot in asked)
        return torch.zeros(len(asked), 3, 64, 64, dtype=torch.uint8)

    monkeypatch.setattr("evaluation.pictures.draw", draw)
    model, erased = load_model("pocket"), find_targets(names)
    file = before_and_after(tmp_path, erased[0], model, erased=erased)
    assert file == tmp_path / "images" / f"before-after-{names[0]}.png"
    assert Image.open(file).format == "PNG"
    assert not list(tmp_path.rglob("*.tmp"))
    told = [prompt for prompt in drawn if rows[0] not in prompt]
    assert len(told) == len(drawn) // 2
    assert all(rows[1] in prompt for prompt in told)
    assert not any(names[1] in prompt for prompt in drawn)


def test_what_the_run_erased_beside_the_asked_is_not_shown_as_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: list[set[str]] = []
    monkeypatch.setattr(type(PROTOCOLS.get("pocket")()), "evaluate", lambda *_: {})
    monkeypatch.setattr(
        "evaluation.evaluating.before_and_after",
        lambda *_, erased, **__: gone.append({concept.name for concept in erased}),
    )
    erase("pocket", "uce", ["cat", "bear"], anchor=["dog", "house"], out=tmp_path / "run")
    evaluate(tmp_path / "run", concepts=["cat"])
    assert gone == [{"cat", "bear"}]


def test_what_the_run_erased_beside_the_asked_does_not_count_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bear that is gone, too, once lowered the accuracy on what is kept."""
    asked: list[str] = []

    def draw(_: object, shots: list[Any], *__: object, **___: object) -> torch.Tensor:
        asked.extend(shot.prompt for shot in shots)
        return torch.zeros(len(shots), 3, 64, 64, dtype=torch.uint8)

    monkeypatch.setattr("evaluation.protocols.pocket.draw", draw)
    monkeypatch.setattr("evaluation.evaluating.before_and_after", lambda *_, **__: None)
    erase("pocket", "uce", ["cat", "bear"], anchor=["dog", "house"], out=tmp_path / "run")
    record = evaluate(tmp_path / "run", concepts=["cat"], seeds=(188,), subset="48")
    assert record["stamp"]["not_asked"] == "bear"
    assert sum("cat" in prompt for prompt in asked) == 16
    assert 16 < len(asked) < 48
    assert not any("bear" in prompt for prompt in asked)


def test_a_name_that_is_no_files_name_is_refused_or_cleaned(tmp_path: Path) -> None:
    stamp = {"protocol": "pocket", "seeds": [188]}
    file = free_file(tmp_path, stamp, ["../up", "AC/DC"], usual=(188,), is_own=False)
    assert file.parent == tmp_path / "scores"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--protocol", "pocket", "--subset", "10x"], "subset must be a number of images"),
        (["--protocol", "pocket", "--seeds", "188,188"], "seeds must"),
        (["--protocol", "pocket", "--seeds", "a"], "seeds must be whole numbers"),
        (["--protocol", "continual"], "is for runs of `erasure forget`"),
    ],
)
def test_one_line_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str], message: str,
) -> None:  # fmt: skip
    place = ["evaluate", "--images", str(tmp_path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["erasure", *place, *words])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert (ended.value.code, len(error.strip().splitlines())) == (2, 1)
    assert message in error


def test_the_shipped_baseline_is_of_the_protocols_images() -> None:
    assert list(pocket.shipped_baseline()[0]) == plan(pocket.SEEDS, None, [])
