"""Atomic writes: a file or folder appears whole under its name, or not at all."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from erasure.errors import ModelError, StorageError


@contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """Give a temporary sibling path; on success it replaces `target`, on failure it is removed.

    Works for files and folders. Failures to write become StorageError.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir() and target.exists():
            raise StorageError(f"{target} exists already; name another folder.")
        temporary.replace(target)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"could not write {target}: {error}. What stood there before is untouched."
        ) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_json(file: Path, record: object) -> None:
    with atomic(file) as temporary:
        temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def append_line(file: Path, record: object) -> None:
    """Add one line of JSON, for `read_lines`."""
    try:
        with file.open("a") as stream:
            stream.write(json.dumps(record) + "\n")
    except OSError as error:
        raise StorageError(f"could not write {file}: {error}.") from error


def read_lines(file: Path) -> list[dict[str, Any]]:
    """What `append_line` wrote; a line that a kill cut off is left out, and no file is no line."""
    records = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        with suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def write_tensors(
    file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write safetensors; tensors are detached, brought to the CPU and made contiguous."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(file) as temporary:
        save_file(plain, temporary, {"format": "pt", **(metadata or {})})


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read safetensors with its metadata; ModelError names a missing, pickled or damaged file."""
    if file.suffix not in (".safetensors", ".tmp"):
        raise ModelError(
            f"{file} is not safetensors; pickled weights (.ckpt, .pt, .bin) can run code "
            "and are not loaded."
        )
    if not file.is_file():
        raise ModelError(f"there is no file {file}.")
    try:
        with safe_open(file, framework="pt") as opened:
            return {
                name: opened.get_tensor(name)
                for name in opened.keys()  # noqa: SIM118
            }, opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged or no safetensors file: {error}.") from error
