"""Names of models that mean the same everywhere."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from erasure.edit import Edit
from erasure.erasing import erase
from erasure.errors import RunError
from erasure.files.storage import write_json
from erasure.models.built_in import CLASSIFIERS, DIFFUSION
from erasure.opening import lasting_name, open_run
from erasure.undoing import undo
from erasure_datasets.concept import Concept


def test_a_built_in_name_is_never_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (*DIFFUSION, *CLASSIFIERS):
        (tmp_path / name).mkdir()
        assert lasting_name(name) == name


def test_a_folder_is_named_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pocket-sd15", "user@host", "a b"):
        (tmp_path / name).mkdir()
        assert lasting_name(name) == lasting_name(f"./{name}/") == str(tmp_path / name)
    assert lasting_name("owner/name") == "owner/name"
    assert lasting_name("timm:vit") == "timm:vit"


def test_requests_are_taken_back_one_after_another(tmp_path: Path) -> None:
    """Each time what was measured goes with its classes, not with a place in a list."""
    concepts = [Concept(name, "class", label=i) for i, name in enumerate(("red", "green", "blue"))]
    tensors = {
        f"request.{i}.layer.lora_{side}.weight": torch.ones(1, 1) for i in range(3) for side in "AB"
    }
    requests = {str(i): [concept.name] for i, concept in enumerate(concepts)}
    settings = {"rank": 1, "alpha": 1.0}
    Edit(
        tensors, "gs-lora", concepts, "none", form="lora", settings=settings, requests=requests
    ).save(tmp_path / "run")
    told = [{"classes": [c.name], "Acc_f": 0.5, "seconds": 1.0} for c in concepts]
    write_json(tmp_path / "run" / "requests.json", told)
    write_json(tmp_path / "run" / "config.json", {"tasks": list(requests.values())})
    first = undo(tmp_path / "run", tmp_path / "first", concepts="red")
    second = undo(first, tmp_path / "second", concepts="blue")
    left = json.loads((second / "requests.json").read_text())
    assert left == [{"classes": ["green"], "seconds": 1.0}]
    assert json.loads((second / "config.json").read_text())["tasks"] == [["green"]]
    write_json(first / "requests.json", [])
    with pytest.raises(RunError, match="has no request for green"):
        undo(first, tmp_path / "third", concepts="blue")


def test_a_revision_that_a_folder_never_had_is_passed_over(sd1: Path, tmp_path: Path) -> None:
    """Runs from before that was refused hold one."""
    edit = erase(str(sd1), "uce", "cat", out=tmp_path / "run", kind="object", anchor="dog").edit
    replace(edit, revision="main").save(tmp_path / "run")
    opened = open_run(tmp_path / "run").parameters()
    assert all(torch.equal(opened[name], tensor) for name, tensor in edit.tensors.items())
