"""What is written is whole, and on the disk before it has its name."""

import errno
import os
from pathlib import Path

import pytest
import torch

from erasure.errors import StorageError
from erasure.files import storage
from erasure.files.storage import atomic, folder_digest, read_tensors, write_json, write_tensors


def test_results_are_on_the_disk_before_they_have_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed, real = list[tuple[str, bool]](), os.fsync

    def fsync(handle: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{handle}")).name
        flushed.append((name, (tmp_path / "out").exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic(tmp_path / "out") as temporary:
        (temporary / "unet").mkdir(parents=True)
        (temporary / "unet" / "config.json").write_text("{}")
        (temporary / "unet" / "config.json").chmod(0o444)
        (temporary / "README.md").write_text("x")
    before = {name for name, is_there in flushed if not is_there}
    assert {"unet", "config.json", "README.md"} <= before
    assert flushed[-1] == (tmp_path.name, True)


def test_weights_may_be_read_by_whoever_may_read_the_rest(tmp_path: Path) -> None:
    write_json(tmp_path / "edit.json", {})
    write_tensors(tmp_path / "edit.safetensors", {"weight": torch.zeros(2)})
    with atomic(tmp_path / "out") as temporary:
        (temporary / "unet").mkdir(parents=True)
        (temporary / "unet" / "model.safetensors").touch(0o600)  # as safetensors leaves it
    files = ("edit.json", "edit.safetensors", "out/unet/model.safetensors")
    assert len({(tmp_path / name).stat().st_mode for name in files}) == 1


def test_what_the_disk_refuses_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "a.json", 1)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        write_json(tmp_path / "a.json", 2)
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "1\n"


def test_the_same_tensors_and_metadata_are_the_same_file(tmp_path: Path) -> None:
    told = {f"key {number}": 'ü\n"' for number in range(20)}
    files = [tmp_path / f"{number}.safetensors" for number in range(5)]
    for file in files:
        write_tensors(file, {"b": torch.ones(2), "a": torch.zeros(3, dtype=torch.int64)}, told)
    assert len({file.read_bytes() for file in files}) == 1
    tensors, metadata = read_tensors(files[0])
    assert metadata == {"format": "pt", **told}
    assert torch.equal(tensors["b"], torch.ones(2))


def test_an_error_of_the_disk_that_has_no_class_of_its_own(tmp_path: Path) -> None:
    """As tokenizers raises it; any other error is no storage's."""
    for message, kind in (("File too large (os error 27)", StorageError), ("odd", Exception)):
        with (
            pytest.raises(kind, match=message.partition(" (")[0]) as raised,
            atomic(tmp_path / "a"),
        ):
            raise Exception(message)
        assert type(raised.value) is kind


@pytest.mark.parametrize("large", [2**30, 0])
def test_a_folders_digest_is_of_what_it_holds(
    large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LARGE", large)
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "a.png"
    file.write_bytes(b"one")
    first = folder_digest(tmp_path)
    (tmp_path / ".hidden").write_bytes(b"x")
    assert folder_digest(tmp_path) == first
    file.write_bytes(b"two")  # as long
    assert folder_digest(tmp_path) != first
    file.write_bytes(b"one")
    assert folder_digest(tmp_path) == first
    file.rename(tmp_path / "in" / "b.png")
    assert folder_digest(tmp_path) != first
