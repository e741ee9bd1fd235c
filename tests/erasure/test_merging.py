"""Edits of one base side by side in one run."""

import json
from pathlib import Path

import pytest
import torch
from contract import TINY

from erasure.edit import Edit
from erasure.erasing import erase
from erasure.errors import EditError, SettingError
from erasure.exports.exporting import export
from erasure.merging import apply
from erasure.models.diffusion.load import load_model
from erasure.models.digest import digest_of
from erasure.opening import open_run
from erasure.undoing import undo
from erasure_datasets.concept import Concept
from erasure_datasets.errors import DataWarning

FREE = {"kind": "object", "anchor": "house"}


@pytest.fixture(scope="module")
def runs(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of one base: two that change the same weights, and one that changes others."""
    folder, own = tmp_path_factory.mktemp("runs"), {**TINY["esd"], "select": "selfattn"}
    return {
        "cat": erase(str(sd1), "uce", "cat", out=folder / "cat", **FREE).folder,
        "dog": erase(str(sd1), "uce", "dog", out=folder / "dog", **FREE).folder,
        "tree": erase(str(sd1), "esd", "tree", out=folder / "tree", **FREE, **own).folder,
    }


def test_edits_of_different_weights_stand_side_by_side(
    runs: dict[str, Path], sd1: Path, tmp_path: Path
) -> None:
    out = apply([runs["cat"], runs["tree"]], tmp_path / "both")
    found, edit = open_run(out).parameters(), Edit.load(out)
    one, other = open_run(runs["cat"]).parameters(), open_run(runs["tree"]).parameters()
    for name, weight in found.items():
        assert torch.equal(weight, (one if "attn2" in name else other)[name]), name
    assert [concept.name for concept in edit.concepts] == ["cat", "tree"]
    assert [part["method"] for part in edit.parts] == ["uce", "esd"]
    assert edit.method == "uce + esd"
    assert edit.base == str(sd1)
    for name, sums in open_run(out).moved().items():
        assert edit.moved[name] == pytest.approx(sums)
    record = json.loads((out / "config.json").read_text())
    assert record["runs"] == [str(runs["cat"]), str(runs["tree"])]
    again = load_model(str(export(out, tmp_path / "export"))).parameters()
    assert all(torch.equal(weight, again[name]) for name, weight in found.items())
    stacked = erase(out, "uce", "bird", out=tmp_path / "more", **FREE)
    assert [part["concepts"] for part in stacked.edit.parts] == [["cat"], ["tree"], ["bird"]]


def test_an_overlap_is_refused_or_added_as_asked(
    runs: dict[str, Path], sd1: Path, tmp_path: Path
) -> None:
    both = [runs["cat"], runs["dog"]]
    with pytest.raises(EditError, match=r"change the same weights: \d+ elements of unet\.\S+attn2"):
        apply(both, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.warns(DataWarning, match=r"\d+ weights, unet\.\S+ the first, have the changes of"):
        apply(both, tmp_path / "out", overlap="add")
    base, found = load_model(str(sd1)).parameters(), open_run(tmp_path / "out").parameters()
    one, other = (open_run(run).parameters() for run in both)
    for name in Edit.load(runs["cat"]).shapes():
        want = one[name] + other[name] - base[name]
        assert torch.allclose(found[name], want, atol=1e-6)  # of sums in float32
    left = undo(tmp_path / "out", tmp_path / "left", concepts="dog")
    assert all(
        torch.equal(weight, one[name]) for name, weight in open_run(left).parameters().items()
    )
    assert Edit.load(left).method == json.loads((left / "config.json").read_text())["method"]
    upon = erase(runs["cat"], "uce", "bird", out=tmp_path / "upon", **FREE).folder
    with pytest.raises(SettingError, match="it would be added twice"):
        apply([runs["cat"], upon], tmp_path / "no", overlap="add")


def test_sparse_edits_of_other_elements_share_a_tensor(sd1: Path, tmp_path: Path) -> None:
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    for number, concept in enumerate(("cat", "dog")):
        model = load_model(str(sd1))
        digest = digest_of(model)
        model.remember([name])
        model.parameters()[name].data[number, 3] = 0.3 + number
        edit = Edit.between(model, [Concept(concept, "object")], "esd", {})
        edit = Edit(**{**vars(edit), "base_digest": digest})
        edit.save(tmp_path / concept)
    out = apply([tmp_path / "cat", tmp_path / "dog"], tmp_path / "both")
    assert Edit.load(out).form == "sparse"
    weight, base = (m.parameters()[name] for m in (open_run(out), load_model(str(sd1))))
    assert weight[:2, 3].tolist() == pytest.approx([0.3, 1.3])
    assert int((weight != base).sum()) == 2


def test_adapters_add_and_each_stays_a_request(sd1: Path, tmp_path: Path) -> None:
    settings = {**FREE, **TINY["gs-lora"]}
    runs = [
        erase(str(sd1), "gs-lora", name, out=tmp_path / name, **settings).folder
        for name in ("cat", "dog")
    ]
    with pytest.warns(DataWarning, match="have the changes of several runs added"):
        out = apply(runs, tmp_path / "both")
    assert Edit.load(out).requests == {"0": ["cat"], "1": ["dog"]}
    left = open_run(undo(out, tmp_path / "left", concepts="cat")).parameters()
    only = open_run(runs[1]).parameters()
    assert all(torch.equal(weight, only[name]) for name, weight in left.items())
    odd = erase(str(sd1), "gs-lora", "bird", out=tmp_path / "bird", rank=4, **settings).folder
    with pytest.raises(EditError, match=r"rank must be 8, as .* got 4"):
        apply([*runs, odd], tmp_path / "no")
    upon = erase(runs[0], "gs-lora", "bird", out=tmp_path / "upon", **settings).folder
    mine = undo(upon, tmp_path / "mine", concepts="bird")  # of other words, the same adapter
    for twice in ([runs[0], upon], [mine, *runs]):
        with pytest.raises(SettingError, match=r"it would be added twice\."):
            apply(twice, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_runs_that_do_not_go_together_are_refused(
    runs: dict[str, Path], sd2: Path, sd1: Path, tmp_path: Path
) -> None:
    other = erase(str(sd2), "uce", "dog", out=tmp_path / "sd2", **FREE).folder
    lost = erase(str(sd1), "uce", "house", out=tmp_path / "h", kind="object", anchor="").folder
    cases = [
        ([runs["cat"], other], EditError, "whose weights differ; only edits of one base"),
        ([runs["cat"]], SettingError, "two runs or more together; got 1"),
        (
            [runs["cat"], runs["cat"]],
            SettingError,
            r"holds an erasure that .* holds, too; it would be",
        ),
        ([runs["cat"], lost], SettingError, "draws house for cat, and house is to be gone"),
        ([runs["cat"], tmp_path / "none"], EditError, "holds no finished erasure"),
    ]
    for both, kind, words in cases:
        with pytest.raises(kind, match=words):
            apply(both, tmp_path / "no")
    with pytest.raises(SettingError, match="overlap must be one of refuse, add; got sum"):
        apply([runs["cat"], runs["tree"]], tmp_path / "no", overlap="sum")  # type: ignore[arg-type]
    assert not (tmp_path / "no").exists()


def test_what_is_not_drawn_as_its_anchor_may_lose_it(sd1: Path, tmp_path: Path) -> None:
    """ESD that pushes away from the concept has its anchor for a name alone."""
    own = {**TINY["esd"], "select": "selfattn", "push_from": "prompt"}
    away = erase(str(sd1), "esd", "tree", out=tmp_path / "tree", **FREE, **own).folder
    lost = erase(str(sd1), "uce", "house", out=tmp_path / "h", kind="object", anchor="").folder
    apply([away, lost], tmp_path / "both")
