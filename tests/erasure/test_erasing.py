"""Which concepts, anchors and models an erasure takes, and what makes it the same run again."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from erasure.commandline.main import main
from erasure.concepts import find_concepts
from erasure.edit import Edit
from erasure.erasing import erase
from erasure.errors import EditError, ModelError, RunError, SettingError
from erasure.files.storage import read_tensors, write_tensors
from erasure.forgetting import forget
from erasure.models.diffusion.latent_diffusion import LatentDiffusion
from erasure.models.diffusion.load import load_model
from erasure.opening import open_run

CHURCH = {"kind": "object", "anchor": "a house"}


@pytest.fixture(scope="module")
def free(sd1: Path) -> LatentDiffusion:
    return load_model(str(sd1))


@pytest.fixture(scope="module")
def known() -> LatentDiffusion:
    return load_model("pocket")


NEIGHBOURS = [
    (["cat", "dog"], ["fish", "fish"]),
    (["cat", "fish", "dog"], ["flame", "flame", "flame"]),
    (["tree", "house", "Winter"], ["bear", "bear", "Photo"]),
]


@pytest.mark.parametrize(("names", "anchors"), NEIGHBOURS)
def test_a_default_anchor_is_never_erased_itself(
    known: LatentDiffusion, names: list[str], anchors: list[str]
) -> None:
    assert [concept.anchor for concept in find_concepts(known, names)] == anchors


LOST = [
    (["cat", "dog"], {"anchor": "dog"}),
    (["cat"], {"anchor": "CAT"}),
    (["cat"], {"anchor": "a black cat"}),
    (["Mosaic"], {"anchor": "mosaic"}),
    (["cat", "Winter"], {"anchor": ["bird", "Winter"]}),
]


@pytest.mark.parametrize(("names", "more"), LOST)
def test_a_given_anchor_must_stay(known: LatentDiffusion, names: list[str], more: dict) -> None:
    with pytest.raises(SettingError, match=r"anchor of .* must be something that stays"):
        find_concepts(known, names, **more)


STRANGE = [
    ("cat", "brid", r"pocket's list, or empty for none; got 'brid'. Did you mean bear or bird"),
    ("cat", "zeppelin", r"got 'zeppelin'. Known: house, bear"),
    ("cat", "Mosaic", r"of its own kind, object; got 'Mosaic'. Known: house"),
    ("Mosaic", "dog", r"of its own kind, style; got 'dog'. Known: Photo"),
]


@pytest.mark.parametrize(("name", "anchor", "message"), STRANGE)
def test_an_anchor_is_of_the_models_list(
    known: LatentDiffusion, name: str, anchor: str, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        find_concepts(known, [name], anchor=anchor)
    assert find_concepts(known, ["cat"], anchor="")[0].anchor == ""
    assert find_concepts(known, ["Mosaic"], anchor="pop_art")[0].anchor == "Pop Art"


@pytest.mark.parametrize("odd", [3, None, b"cat", ["cat", 3], [None]])
def test_names_from_python_are_texts(free: LatentDiffusion, odd: object) -> None:
    for wrong in ({"names": odd}, {"kind": odd or 0}, {"anchor": odd or 0}):
        with pytest.raises(SettingError, match=r"^(concept|kind|anchor) must be a text, or a list"):
            find_concepts(free, **{"names": ["cat", "dog"], "kind": "object", **wrong})


@pytest.mark.parametrize("text", ["<|endoftext|>", "a <|startoftext|> owl"])
def test_a_concept_is_no_mark_of_the_tokenizers(sd1: Path, tmp_path: Path, text: str) -> None:
    for more in ({"concepts": [text]}, {"concepts": ["cat"], "anchor": text}):
        with pytest.raises(SettingError, match=r"must be plain text .* holds '<\|"):
            erase(str(sd1), "uce", kind="object", out=tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()


BAD_BASES = ["x" * 5000, "/" + "x" * 5000, "a\0b", "/a\0b", "", "~nobody-of-this-name/sd"]


@pytest.mark.parametrize("base", BAD_BASES)
def test_a_record_with_a_path_that_cannot_be_is_one_line(
    sd1: Path, tmp_path: Path, base: str
) -> None:
    run = tmp_path / "run"
    erase(str(sd1), "uce", "church", out=run, **CHURCH)
    record = json.loads((run / "edit.json").read_text())
    (run / "edit.json").write_text(json.dumps({**record, "base": base}))
    with pytest.raises(EditError, match=r"the base in .*edit.json must (be a path|not be empty)"):
        open_run(run)
    with pytest.raises(SettingError, match="base must"):
        open_run(run, base=base)
    (run / "edit.json").write_text(json.dumps(record))
    config = json.loads((run / "config.json").read_text())
    for odd, why in ((base, "config in .*config.json must"), (3, "config.json is not readable")):
        (run / "config.json").write_text(json.dumps({**config, "config": odd}))
        with pytest.raises(RunError, match=why):
            open_run(run)


@pytest.mark.parametrize("path", BAD_BASES)
def test_paths_that_cannot_be_are_one_line(sd1: Path, tmp_path: Path, path: str) -> None:
    out, church = tmp_path / "run", {"concepts": "church", **CHURCH}
    for name, asked in {
        "model": {"model": path, "out": out},
        "out": {"model": str(sd1), "out": path},
        "config": {"model": str(sd1), "out": out, "config": path},
        **({"retain_prompts": {"model": sd1, "out": out, "retain_prompts": path}} if path else {}),
    }.items():
        with pytest.raises(SettingError, match=f"^{name} must"):
            erase(method="uce", **asked, **church)  # type: ignore[arg-type]
        assert not out.exists()


def test_a_method_is_named(sd1: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="method must be a name; got 3"):
        erase(str(sd1), 3, ["cat"], out=tmp_path / "run")  # type: ignore[arg-type]


def test_kinds_and_anchors_go_with_their_concepts(free: LatentDiffusion) -> None:
    first, second = find_concepts(
        free, ["Van Gogh", "church"], kind=["style", "object"], anchor=["Monet", "barn"]
    )
    assert (first.kind, first.anchor, second.kind, second.anchor) == (
        "style", "Monet", "object", "barn",
    )  # fmt: skip
    assert "style" in first.prompts()[0]
    with pytest.raises(SettingError, match="kind must be given once, or once for each of the 3"):
        find_concepts(free, ["a", "b", "c"], kind=["style", "object"])


WRONG = [
    (["church", "Church"], {"kind": "object"}, "concept names must differ"),
    (["a dog", "a_dog"], {"kind": "object"}, "concept names must differ"),
    (["church"], {}, "kind must be given for 'church': one of style, object, person, unsafe;"),
    (["church"], {"kind": "class"}, "got class"),
    (["\ud800"], {"kind": "object"}, "name must be a plain line of text"),
    ([" "], {"kind": "object"}, "name must not be empty"),
]


@pytest.mark.parametrize(("names", "more", "message"), WRONG)
def test_names_that_cannot_be(
    free: LatentDiffusion, names: list[str], more: dict, message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        find_concepts(free, names, **more)


def test_a_known_concept_keeps_its_kind(known: LatentDiffusion) -> None:
    with pytest.raises(SettingError, match="kind of cat is object; got 'style'"):
        find_concepts(known, ["cat"], kind="style")
    with pytest.raises(SettingError, match="has a list of its concepts"):
        find_concepts(known, ["church"], kind="object")


def test_one_name_is_one_concept(listed: Path, tmp_path: Path) -> None:
    result = erase(listed, "uce", "cat", out=tmp_path / "run")
    assert [concept.name for concept in result.edit.concepts] == ["cat"]
    assert len(repr(result.edit)) < 200
    assert torch.isfinite(result.edit.tensors[next(iter(result.edit.tensors))]).all()


def test_a_model_that_is_none_is_named(free: LatentDiffusion, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="got a UNet2DConditionModel"):
        erase(free.backbone, "uce", ["cat"], out=tmp_path / "run", **CHURCH)
    assert not (tmp_path / "run").exists()


def test_a_missing_list_of_prompts_leaves_the_folder_free(sd1: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "run", tmp_path / "keep.csv"
    with pytest.raises(SettingError, match=r"keep\.csv"):
        erase(sd1, "uce", "church", out=out, retain_prompts=str(file), **CHURCH)
    assert not out.exists()
    file.write_text("prompt\na photo of a tree\n")
    erase(sd1, "uce", "church", out=out, retain_prompts=str(file), **CHURCH)
    file.write_text("prompt\na photo of a river\n")
    with pytest.raises(RunError, match="different run: of its inputs, retain_prompts has changed"):
        erase(sd1, "uce", "church", out=out, retain_prompts=str(file), **CHURCH)


def copied(source: Path, to: Path) -> Path:
    shutil.copytree(source, to)
    return to


def other_weights(model: Path) -> None:
    file = next((model / "unet").glob("*.safetensors"))
    tensors, facts = read_tensors(file)
    write_tensors(file, {name: tensor + 0.01 for name, tensor in tensors.items()}, facts)


def test_a_run_knows_its_base_wherever_it_is_opened(
    sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, run = copied(sd1, tmp_path / "here" / "user@host" / "sd"), tmp_path / "run"
    monkeypatch.chdir(model.parent)
    erase("./sd", "uce", "church", out=run, **CHURCH)
    handed = tmp_path / "handed"
    erase(load_model("./sd"), "uce", "church", out=handed, **CHURCH)
    assert Edit.load(handed).base == Edit.load(run).base == str(model)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    edit = Edit.load(run)
    opened = open_run(run).parameters()
    assert all(torch.equal(opened[name], tensor) for name, tensor in edit.tensors.items())
    moved = model.rename(tmp_path / "moved")
    with pytest.raises(EditError, match=r"not there any more; say with --base"):
        open_run(run)
    assert torch.equal(
        open_run(run, base=moved).parameters()["unet.conv_in.weight"], opened["unet.conv_in.weight"]
    )
    other_weights(moved)
    with pytest.raises(EditError, match="does not hold the weights that the edit was made on"):
        open_run(run, base=moved)


def test_another_model_in_the_same_place_is_another_run(sd1: Path, tmp_path: Path) -> None:
    model, run = copied(sd1, tmp_path / "sd"), tmp_path / "run"
    erase(model, "uce", "church", out=run, **CHURCH)
    other_weights(model)
    with pytest.raises(RunError, match="different run: its base_digest"):
        erase(model, "uce", "church", out=run, **CHURCH)


def test_a_held_folder_is_not_touched(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may differ between two calls is written only by the one that has the folder."""
    from erasure.files.locking import alone_in

    run = tmp_path / "run"
    erase(listed, "uce", "cat", out=run)
    (run / "edit.json").unlink()
    before = (run / "config.json").read_bytes()
    monkeypatch.setattr("sys.argv", ["another", "command"])
    with alone_in(run), pytest.raises(RunError, match="another process is at work"):
        erase(listed, "uce", "cat", out=run, checkpoint_seconds=3)
    assert (run / "config.json").read_bytes() == before


BROKEN: dict[str, Callable[[dict], dict]] = {
    "a tensor fewer": lambda tensors: dict(list(tensors.items())[1:]),
    "not a number": lambda tensors: {n: t * float("nan") for n, t in tensors.items()},
    "swapped": lambda tensors: dict(zip(tensors, reversed(tensors.values()), strict=True)),
    "another type": lambda tensors: {name: t.half() for name, t in tensors.items()},
    "a bit": lambda tensors: {n: t.nextafter(t + 1) for n, t in tensors.items()},
}  # fmt: skip


@pytest.mark.parametrize("damage", BROKEN.values(), ids=BROKEN.keys())
def test_a_damaged_edit_is_refused(
    listed: Path, tmp_path: Path, damage: Callable[[dict], dict]
) -> None:
    run = tmp_path / "run"
    erase(listed, "uce", "cat", out=run)
    tensors, facts = read_tensors(run / "edit.safetensors")
    write_tensors(run / "edit.safetensors", damage(tensors), facts)
    with pytest.raises(EditError, match=r"is not the file that .* was written with"):
        Edit.load(run)


RECORDS = [
    b"\xe9", b"null", b"[" * 100_000, b'{"form": "weights"', b"{}",
    '{"a": 1}'.encode("utf-16"),
]  # fmt: skip
CHANGES = {
    "form": "sideways", "method": None, "base": 3, "settings": "none", "concepts": [{"name": []}],
    "requests": {"0": 3}, "sampling": {"steps": "many"},
}  # fmt: skip


def test_a_malformed_record_is_one_line(listed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    erase(listed, "uce", "cat", out=run)
    file = run / "edit.json"
    good = json.loads(file.read_text())
    changed = [json.dumps({**good, name: value}).encode() for name, value in CHANGES.items()]
    kinds = [json.dumps({**good, "concepts": [{**good["concepts"][0], "kind": "x"}]}).encode()]
    for content in [*RECORDS, *changed, *kinds]:
        file.write_bytes(content)
        with pytest.raises(EditError) as told:
            Edit.load(run)
        assert "\n" not in str(told.value)
        assert len(str(told.value)) < 600


def test_no_edit_goes_onto_another_of_the_same_weights(listed: Path, tmp_path: Path) -> None:
    first = erase(listed, "uce", "cat", out=tmp_path / "one").edit
    second = erase(listed, "uce", "dog", out=tmp_path / "two").edit
    model = load_model(str(listed))
    first.apply(model)
    for edit in (second, first):
        with pytest.raises(EditError, match=r"holds an edit of .* already"):
            edit.apply(model)
    first.undo(model)
    second.apply(model)
    assert all(torch.equal(model.parameters()[n], tensor) for n, tensor in second.tensors.items())


PLACES = [("below/run", "cannot be a run's folder"), ("x" * 300, "out must be a path")]


@pytest.mark.parametrize(("place", "message"), PLACES)
def test_a_folder_that_cannot_be_is_one_line(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
    place: str, message: str,
) -> None:  # fmt: skip
    (tmp_path / "below").write_text("a file")
    arguments = ["erase", "uce", "--model", str(listed), "--concept", "cat"]
    monkeypatch.setattr("sys.argv", ["erasure", *arguments, "--out", str(tmp_path / place)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert message in told
    assert os.listdir(tmp_path) == ["below"]


def test_trackers_that_are_not_there_are_refused(listed: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SettingError, match=r"report_to must be one of .*tensorboard.*; got 'nosuch'"
    ):
        erase(listed, "uce", "cat", out=tmp_path / "run", report_to="nosuch")
    with pytest.raises(SettingError, match="pip install"):
        erase(listed, "uce", "cat", out=tmp_path / "run", report_to="clearml")
    assert not (tmp_path / "run").exists()


def test_an_edited_model_is_not_erased_from(listed: Path, tmp_path: Path) -> None:
    result = erase(listed, "uce", "cat", out=tmp_path / "run")
    with pytest.raises(ModelError, match="holds an edit already"):
        erase(result.model, "uce", "dog", out=tmp_path / "two")


ALIKE = [("Caf\u00e9", "Cafe\u0301"), ("cat", "cats"), ("cat", "\uff43\uff41\uff54")]


@pytest.mark.parametrize("names", ALIKE)
def test_names_that_read_alike_are_one(free: LatentDiffusion, names: tuple[str, str]) -> None:
    with pytest.raises(SettingError, match="concept names must differ"):
        find_concepts(free, names, kind="object")
    assert len(find_concepts(free, ["cat", "black cat"], kind="object")) == 2


CONFIGS = [
    ("scheduler/scheduler_config.json", "beta_end", 0.02),
    ("scheduler/scheduler_config.json", "prediction_type", "v_prediction"),
    ("vae/config.json", "scaling_factor", 0.2),
]


@pytest.mark.parametrize(("file", "key", "value"), CONFIGS)
def test_a_base_that_answers_otherwise_is_another(
    sd1: Path, tmp_path: Path, file: str, key: str, value: object
) -> None:
    model, run = copied(sd1, tmp_path / "sd"), tmp_path / "run"
    erase(model, "uce", "church", out=run, **CHURCH)
    record = json.loads((model / file).read_text())
    (model / file).write_text(json.dumps({**record, key: value}))
    with pytest.raises(EditError, match="does not hold the weights that the edit was made on"):
        open_run(run)


UNUSED = [
    {"seed": 3}, {"mixed_precision": "bf16"}, {"gradient_checkpointing": True},
    {"gradient_accumulation": 2}, {"channels_last": True}, {"compile": True},
]  # fmt: skip


@pytest.mark.parametrize("given", UNUSED)
def test_what_a_method_does_not_use_is_refused(sd1: Path, tmp_path: Path, given: dict) -> None:
    name = next(iter(given))
    with pytest.raises(SettingError, match=f"^{name} has no effect on uce"):
        erase(sd1, "uce", "church", out=tmp_path / "run", **given, **CHURCH)
    assert not (tmp_path / "run").exists()
    with pytest.raises(SettingError, match=r"^mixed_precision has no effect on ssd"):
        forget("pocket-vit", "ssd", [["cat"]], out=tmp_path / "run", mixed_precision="bf16")
