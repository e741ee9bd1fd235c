"""Erasing further from an erased run: one edit of the base, with all concepts in it."""

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from contract import TINY

from erasure.edit import Edit
from erasure.erasing import Result, erase
from erasure.errors import EditError, ErasureError, ModelError, RunError, SettingError
from erasure.exports.exporting import export
from erasure.files.storage import write_json
from erasure.foreseeing import foresee_erasure
from erasure.methods.diffusion.uce import UCE
from erasure.models.diffusion.load import load_model
from erasure.models.diffusion.model import DiffusionModel
from erasure.opening import open_run
from erasure.repeating import settings_of
from erasure.training.run import Run
from erasure.undoing import undo
from erasure_datasets.concept import Concept
from erasure_datasets.errors import DataWarning

FREE = {"kind": "object", "anchor": "house"}


def weights(model: DiffusionModel) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.parameters().items()}


def is_same(one: DiffusionModel, other: DiffusionModel) -> bool:
    others = other.parameters()
    return all(torch.equal(weight, others[name]) for name, weight in one.parameters().items())


@pytest.fixture(scope="module")
def cat(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of uce that took the cat of the SD 1.4 miniature."""
    return erase(
        str(sd1), "uce", "cat", out=tmp_path_factory.mktemp("below") / "cat", **FREE
    ).folder


@pytest.mark.parametrize(
    ("family", "first", "then"),
    [pytest.param("sd1", "uce", "esd", marks=pytest.mark.slow),
     pytest.param("sd1", "gs-lora", "uce", marks=pytest.mark.slow), ("sdxl", "uce", "uce"),
     ("sd1", "uce", "gs-lora"), ("sd3", "uce", "esd")],
)  # fmt: skip
def test_a_stack_is_what_erasing_from_the_erased_models_own_folder_gives(
    family: str, first: str, then: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The method's reference is the erased model, and one edit of the base holds both."""
    base = request.getfixturevalue(family)
    below = erase(str(base), first, "cat", out=tmp_path / "cat", **FREE, **TINY[first])
    folder = export(below.folder, tmp_path / "folder")
    own = load_model(str(folder))
    own.taken = below.edit.concepts  # gs-lora holds on to what they draw now
    want = erase(own, then, "dog", out=tmp_path / "want", **FREE, **TINY[then]).model
    found = erase(below.folder, then, "dog", out=tmp_path / "both", **FREE, **TINY[then])
    assert is_same(found.model, want)
    assert is_same(open_run(found.folder), want)
    assert is_same(open_run(found.folder, edited=False), load_model(str(base)))
    with found.model.without_edit():
        assert is_same(found.model, load_model(str(base)))
    edit = Edit.load(found.folder)
    assert [concept.name for concept in edit.concepts] == ["cat", "dog"]
    assert edit.base == str(base)
    assert [part["concepts"] for part in edit.parts] == [["cat"], ["dog"]]
    assert edit.method == (first if first == then else f"{first}, then {then}")
    again = erase(below.folder, then, "dog", out=tmp_path / "both", **FREE, **TINY[then])
    assert is_same(again.model, want)


def test_what_moved_is_told_against_the_base(cat: Path, tmp_path: Path) -> None:
    found = erase(cat, "uce", "dog", out=tmp_path / "both", **FREE)
    want = found.model.moved()
    assert found.edit.moved.keys() == want.keys()
    for name, sums in want.items():
        assert found.edit.moved[name] == pytest.approx(sums)


def test_an_interrupted_stack_goes_on_to_the_same_bits(
    cat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**FREE, **TINY["esd"]}
    whole = erase(cat, "esd", "dog", out=tmp_path / "whole", **settings)
    save = Run.save_state

    def save_then_stop(self: Run, stage: str, step: int, *rest: object, **more: object) -> Path:
        save(self, stage, step, *rest, **more)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save_state", save_then_stop)
        patch.setattr(Run, "is_due", True)
        with pytest.raises(KeyboardInterrupt):
            erase(cat, "esd", "dog", out=tmp_path / "part", **settings)
    assert (tmp_path / "part" / "state").is_dir()
    resumed = erase(cat, "esd", "dog", out=tmp_path / "part", **settings)
    assert resumed.edit.tensors.keys() == whole.edit.tensors.keys()
    assert all(torch.equal(t, whole.edit.tensors[n]) for n, t in resumed.edit.tensors.items())


def test_in_lower_precision_the_edit_is_still_of_the_base(cat: Path, tmp_path: Path) -> None:
    """The first edit's weights are rounded while the second learns, and not in the result."""
    settings = {**FREE, **TINY["esd"], "select": "selfattn"}
    found = erase(cat, "esd", "dog", out=tmp_path / "low", mixed_precision="bf16", **settings)
    only = open_run(cat).parameters()
    for name, weight in open_run(found.folder).parameters().items():
        assert "attn1" in name or torch.equal(weight, only[name]), name
    adapters = {**FREE, **TINY["gs-lora"]}
    low = erase(cat, "gs-lora", "dog", out=tmp_path / "lora", mixed_precision="bf16", **adapters)
    assert all("attn2" in name or ".ff" in name for name in low.edit.shapes())


def test_requests_stay_apart_and_each_is_given_back(sd1: Path, tmp_path: Path) -> None:
    settings = {**FREE, **TINY["gs-lora"]}
    below = erase(str(sd1), "gs-lora", "cat", out=tmp_path / "cat", **settings)
    found = erase(below.folder, "gs-lora", "dog", out=tmp_path / "both", **settings)
    assert found.edit.requests == {"0": ["cat"], "1": ["dog"]}
    assert is_same(open_run(found.folder), found.model)
    left = undo(found.folder, tmp_path / "left", concepts="dog")
    assert is_same(open_run(left), below.model)
    assert Edit.load(left).parts == [Edit.load(found.folder).parts[0]]
    with pytest.raises(EditError, match=r"rank must be 8, as .* got 4"):
        erase(below.folder, "gs-lora", "tree", out=tmp_path / "no", rank=4, **settings)


@pytest.mark.parametrize("family", ["sd1", "sd3", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_requests_solved_anew_are_one_request(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """In any order, to the bit; and one taken back was never there."""
    base, names = str(request.getfixturevalue(family)), ["cat", "dog", "tree"]
    want = erase(base, "uce", names, out=tmp_path / "want", **FREE).model
    run = erase(base, "uce", "cat", out=tmp_path / "cat", **FREE).folder
    for name in names[1:]:
        found = erase(run, "uce", name, out=tmp_path / name, anew=True, **FREE)
        run = found.folder
    assert is_same(found.model, want)
    assert is_same(open_run(run), want)
    assert [concept.name for concept in Edit.load(run).concepts] == names
    again = erase(tmp_path / "dog", "uce", "tree", out=run, anew=True, **FREE)  # is there already
    assert is_same(again.model, want)
    without = erase(base, "uce", ["cat", "tree"], out=tmp_path / "two", **FREE).model
    left = undo(run, tmp_path / "left", concepts="Dog")
    assert is_same(open_run(left), without)
    edit = Edit.load(left)
    assert [concept.name for concept in edit.concepts] == ["cat", "tree"]
    assert (edit.base, edit.base_digest) == (base, Edit.load(run).base_digest)
    assert json.loads((left / "config.json").read_text())["undone"] == ["Dog"]
    repeated = settings_of(left, "uce", {f.name for f in fields(UCE)})
    assert (repeated["model"], repeated["anew"]) == (base, False)


def test_a_request_is_taken_back_from_uces_upon_one_another(cat: Path, tmp_path: Path) -> None:
    both = erase(cat, "uce", "dog", out=tmp_path / "both", **FREE).folder
    left = open_run(undo(both, tmp_path / "left", concepts="dog"))
    assert is_same(left, open_run(cat))
    repeated = settings_of(tmp_path / "left", "uce", {f.name for f in fields(UCE)})
    assert repeated["model"] == Edit.load(cat).base  # nothing lies below what is left


def test_a_request_is_taken_back_by_what_was_read_then_or_not_at_all(
    sd1: Path, tmp_path: Path
) -> None:
    kept, names = tmp_path / "kept.txt", ["cat", "dog"]
    kept.write_text("a boat\n")
    given = {"retain_prompts": str(kept), **FREE}
    run = erase(str(sd1), "uce", names, out=tmp_path / "both", **given).folder
    want = erase(str(sd1), "uce", "cat", out=tmp_path / "cat", **given).model
    assert is_same(open_run(undo(run, tmp_path / "left", concepts="dog")), want)
    kept.write_text("a ship\n")
    with pytest.raises(RunError, match=r"retain_prompts of .* holds something else than it did"):
        undo(run, tmp_path / "no", concepts="dog")
    kept.unlink()
    with pytest.raises(SettingError, match=r"kept\.txt cannot be read"):
        undo(run, tmp_path / "no", concepts="dog")
    assert not (tmp_path / "no").exists()


def test_what_cannot_be_solved_anew_is_refused(cat: Path, sd1: Path, tmp_path: Path) -> None:
    mixed = erase(cat, "esd", "dog", out=tmp_path / "mixed", **FREE, **TINY["esd"]).folder
    mixed = erase(mixed, "uce", "tree", out=tmp_path / "more", **FREE).folder
    cases: list[tuple[Path, dict, type[ErasureError], str]] = [
        (sd1, {}, SettingError, r"anew is for a run to erase further from; .* is no run"),
        (cat, {"stay": 0.1}, EditError, r"stay must be 0.5, as of cat, .* at once; got 0.1"),
        (mixed, {}, EditError, "uce cannot solve anew for dog, which esd took away"),
    ]
    for model, more, error, message in cases:
        with pytest.raises(error, match=message):
            erase(model, "uce", "horse", out=tmp_path / "no", anew=True, **FREE, **more)
        assert not (tmp_path / "no").exists()
    unlike = erase(cat, "uce", "tree", out=tmp_path / "unlike", stay=0.7, **FREE).folder
    undone: list[tuple[Path, dict, type[ErasureError], str]] = [
        (unlike, {"concepts": "cat"}, EditError, "stay must be 0.5, as of cat, .*; got 0.7"),
        (cat, {"concepts": "cat"}, EditError, "every request would be taken back"),
        (cat, {"concepts": "dog"}, EditError, "no request took 'dog'; they took cat"),
        (mixed, {"concepts": "cat"}, EditError, "for all its concepts at once; only edits with"),
        (mixed, {"concepts": "cat", "base": "x"}, SettingError, "base has no effect on a run of"),
    ]
    for run, how, error, message in undone:
        with pytest.raises(error, match=message):
            undo(run, tmp_path / "no", **how)
        assert not (tmp_path / "no").exists()


@pytest.fixture(scope="module")
def no_cat(listed: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The same of the miniature with a list of concepts: the cat is drawn as a dog."""
    return erase(str(listed), "uce", "cat", out=tmp_path_factory.mktemp("below") / "cat")


def test_what_is_gone_is_nobodys_anchor(no_cat: Result, tmp_path: Path) -> None:
    assert no_cat.edit.concepts[0].anchor == "dog"
    with pytest.warns(DataWarning, match="cat is drawn as dog in .* it is erased anew, as tree"):
        found = erase(no_cat.folder, "uce", "dog", out=tmp_path / "both")
    assert {c.name: c.anchor for c in found.edit.concepts} == {"cat": "tree", "dog": "tree"}
    # the cat's prompt now draws what the tree's does, no dog
    maps = [weight for name, weight in found.model.parameters().items() if "attn2.to_v" in name]
    seen = found.model.encode(
        [f"A {name} image in Photo style." for name in ("cat", "dog", "tree")]
    )
    last = found.model.token_count("A cat")
    cat, dog, tree = (seen[:, last] @ maps[0].T).unbind()
    base = load_model(str(found.edit.base)).parameters()
    before = (seen[:, last] @ next(w for n, w in base.items() if "attn2.to_v" in n).T).unbind()
    assert (cat - tree).norm() < 0.8 * (before[0] - before[2]).norm()
    assert (dog - tree).norm() < 0.8 * (before[1] - before[2]).norm()
    with pytest.raises(SettingError, match="'cat', and cat is gone already"):
        erase(no_cat.folder, "uce", "tree", out=tmp_path / "no", anchor="cat")
    assert not (tmp_path / "no").exists()


def test_erasing_again_what_is_gone_is_said(cat: Path, tmp_path: Path) -> None:
    with pytest.warns(DataWarning, match="cat is gone from .* already; it is erased once more"):
        found = foresee_erasure(cat, "uce", "cat", out=tmp_path / "again", **FREE)
    assert found.what == f"cat (object), instead of it 'house'; beside what is gone from {cat}"


def test_a_lost_anchor_of_free_text_is_for_the_user_to_replace(cat: Path, tmp_path: Path) -> None:
    with pytest.raises(
        SettingError, match=r"house is what cat is drawn as .* --concept 'house' --"
    ):
        erase(cat, "uce", "house", out=tmp_path / "no", kind="object", anchor="tree")
    both = ["house", "cat"]
    found = erase(cat, "uce", both, out=tmp_path / "both", kind="object", anchor="tree")
    assert {c.name: c.anchor for c in found.edit.concepts} == {"cat": "tree", "house": "tree"}
    with pytest.raises(SettingError, match=r"written as before .* got 'Cat', and cat is gone"):
        erase(cat, "uce", "Cat", out=tmp_path / "no", **FREE)


def test_a_training_keeps_no_picture_of_what_is_gone(no_cat: Result, tmp_path: Path) -> None:
    from erasure.methods.shared.training_data import Plan, gather

    model = open_run(no_cat.folder)
    concept = model.catalogue.concept("tree")  # type: ignore[union-attr]
    plan = Plan("generated", 4, 12, "", 1, 1.0)
    for taken, expected in (((), True), (no_cat.edit.concepts, False)):
        model.taken = taken
        _, kept = gather(model, [concept], plan, Run(tmp_path / "run"))
        assert any("cat" in prompt for prompt in kept.prompts) is expected


def test_another_run_below_is_another_run(cat: Path, sd1: Path, tmp_path: Path) -> None:
    erase(cat, "uce", "dog", out=tmp_path / "both", **FREE)
    other = erase(str(sd1), "uce", "tree", out=tmp_path / "tree", **FREE).folder
    for model in (other, str(sd1)):
        with pytest.raises(RunError, match="different run: its onto is"):
            erase(model, "uce", "dog", out=tmp_path / "both", **FREE)


def test_a_stack_opens_where_its_base_has_moved(sd1: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(sd1, tmp_path / "base"))
    run = erase(str(base), "uce", "cat", out=tmp_path / "cat", **FREE).folder
    moved = base.rename(tmp_path / "moved")
    with pytest.raises(EditError, match="not there any more; say with --base"):
        erase(run, "uce", "dog", out=tmp_path / "both", **FREE)
    found = erase(run, "uce", "dog", out=tmp_path / "both", base=moved, **FREE)
    assert found.edit.base == str(moved)
    assert is_same(open_run(found.folder), found.model)
    left = undo(found.folder, tmp_path / "left", concepts="dog", base=moved.rename(base))
    assert Edit.load(left).base == str(base)
    assert is_same(open_run(left), open_run(run))


def test_what_cannot_be_stacked_is_refused_in_a_line(cat: Path, sd1: Path, tmp_path: Path) -> None:
    unfinished = Path(shutil.copytree(cat, tmp_path / "unfinished"))
    (unfinished / "edit.json").unlink()
    classes = tmp_path / "classes"
    tensors = {"head.weight": torch.zeros(1)}
    Edit(tensors, "ssd", [Concept("cat", "class", label=0)], "pocket-vit").save(classes)
    write_json(classes / "config.json", {"base_digest": "0"})
    cases: list[tuple[dict, type[ErasureError], str]] = [
        ({"method": "sfd"}, SettingError, "sfd cannot erase further from a run: it makes a one"),
        ({"method": "gold"}, SettingError, "gold cannot erase further from a run: its weights"),
        ({"model": unfinished}, RunError, "is not finished .* run its own command again"),
        ({"model": classes}, ModelError, "edits a classifier; erase takes"),
        ({"config": str(sd1)}, SettingError, "config is what the run .* says of itself"),
        ({"revision": "main"}, SettingError, "revision is what the run .* says of itself"),
        ({"model": str(sd1), "base": sd1}, SettingError, "base is that of a run .* is no run"),
    ]
    for changes, kind, words in cases:
        asked = {"model": cat, "method": "uce", "concepts": "dog", **FREE, **changes}
        with pytest.raises(kind, match=words) as told:
            erase(**asked, out=tmp_path / "no")
        assert "\n" not in str(told.value)
        assert not (tmp_path / "no").exists()
    with pytest.raises(SettingError, match=r"out must be another folder than .*cat, the run to"):
        erase(cat, "uce", "dog", out=cat, **FREE)


def test_cards_and_deltas_tell_all_parts(cat: Path, tmp_path: Path) -> None:
    file = tmp_path / "keep.csv"
    file.write_text("prompt\na photo of a tree\n")
    settings = {**FREE, "retain_prompts": str(file)}
    run = erase(cat, "uce", "dog", out=tmp_path / "both", **settings).folder
    out = export(run, tmp_path / "delta", to="delta")
    assert str(tmp_path) not in (out / "edit.json").read_text()
    record = json.loads((out / "edit.json").read_text())
    assert record["parts"][1]["settings"]["retain_prompts"] == "keep.csv"
    assert re.search(r"Concepts: cat, dog\.", (out / "README.md").read_text())
