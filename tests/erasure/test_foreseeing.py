"""Dry runs: what they find, that they check what a run checks, and that they leave nothing."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from contract import some_pictures
from networks import image_folder, timm_folder

from erasure.commandline.forecast import print_forecast
from erasure.erasing import erase
from erasure.errors import RunError, SettingError, StorageError
from erasure.files.locking import alone_in
from erasure.foreseeing import foresee_erasure, foresee_forgetting
from erasure.models.diffusion.load import load_model
from erasure.registry import METHODS
from erasure.requested import Data

CHURCH = {"kind": "object", "anchor": "a house"}
TINY = {"sampling_steps": 4, "paths": 40, "batch_size": 2}
DATA = Data(images=4, test_images=2)


def everything(folder: Path) -> dict[str, bytes]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_it_counts_measures_and_multiplies(sd1: Path, tmp_path: Path) -> None:
    model = load_model(str(sd1))
    chosen = model.weights("xattn")
    found = foresee_erasure(sd1, "esd", "church", out=tmp_path / "run", steps=50, **TINY, **CHURCH)
    assert found.tensors == len(chosen)
    assert found.parameters == sum(weight.numel() for weight in chosen.values())
    assert found.of_all == sum(weight.numel() for weight in model.parameters().values())
    assert found.settings["steps"] == (50, "command line")
    assert found.settings["guidance"] == (3.0, "default")
    assert found.cut == {"sampling_steps": 2, "paths": 16}
    drawn, learnt = found.stages
    assert (drawn.name, learnt.name, learnt.total) == ("paths to forget", "fit", 50)
    assert 5 <= learnt.done < 10
    assert learnt.expected == pytest.approx(50 * learnt.unit_seconds)
    # 40 paths of 4 steps for 16 of 2, whatever number of batches these are
    assert drawn.expected == pytest.approx(drawn.total * drawn.unit_seconds * 40 / 16 * 2)
    assert found.edit_bytes == 4 * found.parameters
    # masters and two moments of Adam in float32, with a step count each and the generator's state
    assert 3 * found.edit_bytes < found.state_bytes < 3 * found.edit_bytes + 10_000
    assert found.peak_bytes > 10**8
    assert list(tmp_path.iterdir()) == []


def test_a_method_that_trains_nothing_is_measured_whole(listed: Path, tmp_path: Path) -> None:
    found = foresee_erasure(listed, "uce", "cat", out=tmp_path / "run")
    assert (found.stages, found.cut) == ([], {})
    assert found.whole_seconds > 0
    result = erase(listed, "uce", "cat", out=tmp_path / "run")
    assert found.edit_bytes == sum(tensor.nbytes for tensor in result.edit.tensors.values())


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=[] if name in ("esd", "uce", "gs-lora") else [pytest.mark.slow])
        for name in METHODS.names("diffusion")
    ],
)
def test_every_method_can_be_tried(method: str, listed: Path, tmp_path: Path) -> None:
    model, concept = ("pocket", "tower") if method == "gold" else (listed, "cat")
    asked = {"images": str(some_pictures(listed))} if method == "adapt-unlearn" else {}
    found = foresee_erasure(model, method, concept, out=tmp_path / "run", quick=True, **asked)
    assert found.tensors > 0
    assert found.whole_seconds is not None or found.stages[-1].done > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["gs-lora", "retrain", "ssd"])
def test_forgetting_can_be_tried(method: str, tmp_path: Path) -> None:
    asked = {"out": tmp_path / "run", "data": DATA, "quick": True}
    found = foresee_forgetting("pocket-vit", method, [["cat"], ["dog"]], **asked)
    assert found.tensors > 0
    assert found.what == "cat; then dog"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "first"), [("prune", "recovery 0"), ("blindspot", "blind"), ("laf", "autoencoder")]
)
def test_what_prepares_is_tried_and_what_follows(method: str, first: str, tmp_path: Path) -> None:
    """Both in full length: 8 images of each of 3 kept classes, at most 4 in a step."""
    model, images = timm_folder(tmp_path / "model"), image_folder(tmp_path / "images")
    more = {"attention_weight": 0.0} if method == "blindspot" else {}
    found = foresee_forgetting(
        str(model), method, [["red"]], out=tmp_path / "run", batch_size=4,
        data=Data(source=str(images), images=8, test_images=1), **more,
    )  # fmt: skip
    assert first in found.stages[0].name
    assert all(stage.total > stage.done >= 5 for stage in found.stages[:-1])
    assert found.stages[-1].name == "request 0"
    assert 5 <= found.stages[-1].done < 10
    assert not (tmp_path / "run").exists()


def test_of_equal_batches_a_few_are_tried(tmp_path: Path) -> None:
    """ssd's importances, of 8 and of 2 batches; and what repair does after it is tried, too."""
    model, images = timm_folder(tmp_path / "model"), image_folder(tmp_path / "images")
    asked = {"tasks": [["red"]], "out": tmp_path / "run",
             "data": Data(source=str(images), images=8, test_images=1)}  # fmt: skip
    alone = foresee_forgetting(str(model), "ssd", batch_size=4, **asked)
    assert [(stage.done, stage.total) for stage in alone.stages] == [(5, 8), (2, 2)]
    assert alone.stages[0].expected == pytest.approx(8 * alone.stages[0].unit_seconds)
    assert alone.whole_seconds is None
    mended = foresee_forgetting(
        str(model), "repair", after="ssd", after_settings="batch_size=4", batch_size=4, **asked
    )
    assert [(stage.done, stage.total) for stage in mended.stages[:2]] == [(5, 8), (2, 2)]
    assert mended.stages[2].name == "request 0 repair"
    assert 5 <= mended.stages[2].done < 10


def test_it_checks_what_a_run_checks(sd1: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "run", tmp_path / "file"
    file.write_text("")
    asked = {"model": str(sd1), "method": "esd", "concepts": "church", "out": out, **CHURCH}
    for change, error, message in (
        ({"select": "xatn"}, SettingError, "'xatn' matched none"),
        ({"steps": 0}, SettingError, "ESD.steps must be at least 1"),
        ({"retain_prompts": str(tmp_path / "none.csv"), "retain_weight": 1.0}, SettingError,
         r"none\.csv"),
        ({"method": "salun", "images": str(tmp_path / "none")}, SettingError, "no folder"),
        ({"kind": None}, SettingError, "kind must be given"),
        ({"out": file}, StorageError, "is no folder; name another --out"),
        ({"out": file / "run"}, StorageError, "is no folder; name another --out"),
        ({"out": tmp_path}, RunError, "is not a run of ours"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            foresee_erasure(**{**asked, **change})
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_folder_of_a_run_stays_as_it_is(listed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    erase(listed, "uce", "cat", out=run)
    before = everything(tmp_path)
    found = foresee_erasure(listed, "uce", "cat", out=run)
    assert found.state.startswith("finished already")
    assert (found.stages, found.whole_seconds) == ([], None)
    with pytest.raises(RunError, match="holds a different run: its concepts is cat"):
        foresee_erasure(listed, "uce", "dog", out=run)
    assert everything(tmp_path) == before
    (run / "edit.json").unlink()
    assert foresee_erasure(listed, "uce", "cat", out=run).state.startswith("begun already")
    with alone_in(run), pytest.raises(RunError, match="another process is at work"):
        foresee_erasure(listed, "uce", "cat", out=run)
    before.pop("run/edit.json")
    assert everything(tmp_path) == before


def test_an_interrupted_run_goes_on_after_a_dry_run(
    sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"steps": 6, "paths": 2, "sampling_steps": 2, "checkpoint_seconds": 0, **CHURCH}
    whole = erase(sd1, "esd", "church", out=tmp_path / "whole", **asked)

    def die(_run: object, _stage: str, step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("erasure.training.run.Run.watch", die)
        with pytest.raises(KeyboardInterrupt):
            erase(sd1, "esd", "church", out=tmp_path / "run", **asked)
    before = everything(tmp_path / "run")
    found = foresee_erasure(sd1, "esd", "church", out=tmp_path / "run", **asked)
    assert 3 <= found.stages[-1].total < 6  # from the last state on
    assert everything(tmp_path / "run") == before
    resumed = erase(sd1, "esd", "church", out=tmp_path / "run", **asked)
    for name, tensor in whole.edit.tensors.items():
        assert torch.equal(tensor, resumed.edit.tensors[name])


def test_several_processes_are_refused(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingError, match="for one process, and this launch has 2"):
        foresee_erasure(listed, "uce", "cat", out=tmp_path / "run")


def test_the_command_line_says_where_each_setting_comes_from(
    listed: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    found = foresee_erasure(
        listed, "esd", "cat", out=tmp_path / "run", steps=1000, origins={"steps": "settings file"}
    )
    print_forecast(found)
    out = capsys.readouterr().out
    assert "nothing was written" in out
    assert "steps 1000 (settings file)" in out
    assert f"{found.tensors} tensors, {found.parameters:,} numbers" in out
    assert "sampling_steps 2, paths 16, and multiplied" in out
    assert "measured" in out


def test_what_is_drawn_first_is_little_in_a_dry_run() -> None:
    """Of every method that gathers pictures, so that a model of real size answers in minutes."""
    for name in METHODS.names("diffusion"):
        for item in fields(METHODS.get("diffusion", name)):  # type: ignore[arg-type]
            if item.name in ("forget_images", "retain_images", "sampling_steps"):
                assert item.metadata["rehearsal"] in (2, 16), (name, item.name)
