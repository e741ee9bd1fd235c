import json
from pathlib import Path

import pytest
import torch

from erasure.edit import Edit
from erasure.erasing import erase
from erasure.errors import EditError
from erasure.exporting import export, open_run
from erasure.models.load import load_model


@pytest.fixture(scope="module")
def run(listed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("edit") / "run"
    erase(str(listed), "uce", ["cat"], out=out)
    return out


def test_it_holds_only_what_changed(run: Path) -> None:
    edit = Edit.load(run)
    assert all(".attn2.to_k" in name or ".attn2.to_v" in name for name in edit.tensors)
    assert edit.concepts[0].name == "cat"
    assert edit.concepts[0].anchor == "dog"


def test_config_records_where_values_came_from(run: Path) -> None:
    record = json.loads((run / "config.json").read_text())
    assert record["settings"]["stay"] == 0.5
    assert record["sources"]["stay"] == "default"
    assert record["seconds"] > 0
    assert record["peak_memory_gb"] > 0
    assert torch.__version__.startswith(record["versions"]["torch"])


def test_it_does_not_go_into_a_model_of_another_shape(run: Path, pocket: object) -> None:
    with pytest.raises(EditError, match=r"does not fit|does not have"):
        Edit.load(run).apply(pocket)


def test_undo_needs_apply(run: Path, listed: Path) -> None:
    with pytest.raises(EditError, match="was not applied"):
        Edit.load(run).undo(load_model(str(listed)))


def test_an_edit_that_changes_nothing_is_an_error(listed: Path) -> None:
    model = load_model(str(listed))
    model.remember(list(model.weights("xattn")))
    with pytest.raises(EditError, match="changed no weight"):
        Edit.between(model, [], "nothing", {})


def test_delta_export_is_an_edit_again(run: Path, tmp_path: Path) -> None:
    out = export(run, tmp_path / "delta", to="delta")
    assert {file.name for file in out.iterdir()} == {"edit.safetensors", "edit.json", "README.md"}
    again, first = Edit.load(out), Edit.load(run)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in first.tensors.items())


def test_open_run_without_the_edit_is_the_base(run: Path, listed: Path) -> None:
    base, want = open_run(run, edited=False), load_model(str(listed))
    assert all(torch.equal(p, want.parameters()[name]) for name, p in base.parameters().items())
