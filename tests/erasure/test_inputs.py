"""What a run read from files: which changes count, and which do not."""

from pathlib import Path

import pytest

from erasure.errors import RunError
from erasure.files import storage
from erasure.inputs import changed_inputs, inputs
from erasure.training.run_folder import own_record


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    folder = tmp_path / "gold"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "config.json").write_text("{}")
    (folder / "unet" / "model.safetensors").write_bytes(bytes(2 * storage.HEAD))
    return folder


def test_weights_count_to_the_last_byte_however_large(
    gold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names alone can fill what is read of other files of a large folder."""
    monkeypatch.setattr(storage, "LARGE", 1)
    first, file = inputs({"weights": str(gold)}), gold / "unet" / "model.safetensors"
    (gold / "README.md").write_text("what else lies there")
    (gold / "sample.png").write_bytes(b"1")
    assert inputs({"weights": str(gold)}) == first
    file.write_bytes(file.read_bytes()[:-1] + b"1")
    assert inputs({"weights": str(gold)}) != first


def test_a_built_in_is_no_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pocket-gold").mkdir()
    monkeypatch.chdir(tmp_path)
    assert inputs({"weights": "pocket-gold", "steps": 3}) == {}


def test_slices_count_and_not_what_their_run_gains(tmp_path: Path) -> None:
    (tmp_path / "slices").mkdir()
    (tmp_path / "slices" / "one").write_text("1")
    first = inputs({"trained": str(tmp_path)})
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "a.json").write_text("{}")
    assert inputs({"trained": str(tmp_path)}) == first
    (tmp_path / "slices" / "one").write_text("2")
    assert inputs({"trained": str(tmp_path)}) != first


def test_what_is_gone_or_was_not_noted_is_no_change(tmp_path: Path) -> None:
    kept, plugin, run = tmp_path / "kept.txt", tmp_path / "own.py", tmp_path / "run"
    kept.write_text("a boat")
    plugin.write_text("x = 1")
    settings = {"retain_prompts": str(kept)}
    record = {
        "settings": settings,
        "inputs": inputs(settings) | {str(plugin): storage.file_digest(plugin)},
    }
    storage.write_json(run / "config.json", record)
    for told in (record, {**record, "inputs": {str(plugin): record["inputs"][str(plugin)]}}):
        assert own_record(run, told)
    assert not changed_inputs(record)
    kept.write_text("a ship")
    plugin.write_text("x = 2")
    assert changed_inputs(record) == ["retain_prompts", str(plugin)]
    with pytest.raises(RunError, match="of its inputs, retain_prompts has changed since"):
        own_record(run, {**record, "inputs": {**record["inputs"], **inputs(settings)}})
    with pytest.raises(RunError, match=r"of its inputs, .*own\.py has changed since"):
        own_record(run, {**record, "inputs": inputs({})})  # by another plug-in of that name
    kept.unlink()
    plugin.unlink()
    assert not changed_inputs(record)
