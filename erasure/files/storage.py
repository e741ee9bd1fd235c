"""Atomic writes: a file or folder appears whole under its name, or not at all."""

import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from erasure.errors import ModelError, StorageError
from erasure.training.progress import shown

HOST = re.sub(r"\W", "_", socket.gethostname())[:32]
LARGE, HEAD = 2**30, 2**16  # bytes: of a folder, and of what is read of each file in a large one
TEMPORARY = re.compile(r"\.(?P<target>.+)\.(?P<host>\w+)-(?P<pid>\d+)\.tmp")


@contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """Give a temporary sibling path; on success it replaces `target`, on failure it is removed.

    Works for files and folders. Failures to write become StorageError. What a killed process left
    of the same target is removed. What has the name is on the disk, for a power cut as well, and
    has the permissions that the user's umask gives to new files.
    """
    temporary = target.with_name(f".{target.name}.{HOST}-{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_dead(target.parent.glob(f".{_literal(target.name)}.*.tmp"))
        yield temporary
        if temporary.is_dir() and target.exists():
            raise StorageError(f"{target} exists already; name another folder.")
        _share(temporary)
        _to_disk(temporary)
        temporary.replace(target)
        _flush_names(target.parent)
    except Exception as error:
        if not _is_of_the_disk(error):
            raise
        reason = getattr(error, "strerror", None) or str(error).replace(str(temporary), str(target))
        raise StorageError(
            f"could not write {target}: {reason}. What stood there before is untouched."
        ) from error
    finally:
        _remove(temporary)


def _is_of_the_disk(error: Exception) -> bool:
    """Whether writing failed, whoever wrote; tokenizers has no class of its own for it."""
    known = isinstance(error, OSError | SafetensorError | UnicodeEncodeError)
    return known or (type(error) is Exception and "(os error " in str(error))


def _share(path: Path) -> None:
    """Give files the umask's permissions: safetensors writes them for their owner's eyes alone."""
    files = (inner for inner in path.rglob("*") if inner.is_file()) if path.is_dir() else [path]
    for file in files:
        if not file.is_symlink() and file.stat().st_mode & 0o777 == 0o600:
            file.chmod(_usual_mode())


def _to_disk(path: Path) -> None:
    """Have a file, or all of a folder, on the disk and no longer in memory alone."""
    if path.is_dir():
        for inner in path.iterdir():
            _to_disk(inner)
        _flush_names(path)
    elif not path.is_symlink():
        with path.open("rb" if os.name == "posix" else "rb+") as stream:
            os.fsync(stream.fileno())


@cache
def _usual_mode() -> int:
    """Of a new file, as the user's umask has it, which can only be read by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return 0o666 & ~umask


def _flush_names(folder: Path) -> None:
    """Have a folder's names on the disk, where the system and its file system can."""
    if os.name == "posix":
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left half-written anywhere in a folder.

    The folder must be held alone: safetensors' own temporary names do not say whose they are.
    """
    _remove_dead(folder.rglob(".*.tmp"))
    for file in list(folder.rglob(".tmp??????")):
        _remove(file)


def _remove_dead(files: Iterator[Path]) -> None:
    for file in list(files):
        named = TEMPORARY.fullmatch(file.name)
        if named and named["host"] == HOST and not psutil.pid_exists(int(named["pid"])):
            _remove(file)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _literal(name: str) -> str:
    """A name as a pattern of `glob` that fits it alone."""
    return re.sub(r"([*?[])", r"[\1]", name)


def file_digest(file: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_digest(folder: Path, kinds: tuple[str, ...] = ("",)) -> str:
    """SHA-256 of the names and contents of all files in a folder but hidden ones.

    `kinds`: how the names of those that count end. Of a folder above a GiB, of names, sizes and the
    first 64 KiB of each file, but for .safetensors, whose first MiB can be names alone.
    """
    inner = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    seen = (name for name in inner if not any(part.startswith(".") for part in name.parts))
    names = sorted(name for name in map(str, seen) if name.endswith(kinds))
    sizes = [(folder / name).stat().st_size for name in names]
    is_large, whole = sum(sizes) > LARGE, hashlib.sha256()
    listed = shown(list(zip(names, sizes, strict=True)), f"digest of {folder.name}")
    for name, size in listed:
        is_whole = not is_large or name.endswith(".safetensors")
        digest = file_digest(folder / name) if is_whole else _head_digest(folder / name)
        whole.update(repr((name, size, digest)).encode(errors="surrogatepass"))
    return whole.hexdigest()


def _head_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.sha256(stream.read(HEAD)).hexdigest()


def write_json(file: Path, record: object) -> None:
    """Write a record; StorageError for numbers and letters that JSON and UTF-8 do not have."""
    try:
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as error:
        raise StorageError(f"could not write {file}: {error}.") from error
    with atomic(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_line(file: Path, record: object) -> None:
    """Add one line of JSON, for `read_lines`; a line that a kill cut off before is ended first."""
    try:
        with file.open("ab+") as stream:
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                is_cut = stream.read(1) != b"\n"
                stream.write(b"\n" * is_cut)
            stream.write(json.dumps(record).encode() + b"\n")
    except OSError as error:
        raise StorageError(f"could not write {file}: {error.strerror or error}.") from error


def read_lines(file: Path) -> list[dict[str, Any]]:
    """What `append_line` wrote; lines that are no JSON object, as a kill leaves them, are left out.

    No file is no line.
    """
    try:
        lines = file.read_bytes().splitlines() if file.is_file() else []
    except OSError as error:
        raise StorageError(f"could not read {file}: {error.strerror or error}.") from error
    records = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict):
                records.append(record)
    return records


def write_tensors(
    file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write safetensors; tensors are detached, brought to the CPU and made contiguous.

    The same tensors and metadata give the same bytes.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(file) as temporary:
        save_file(plain, temporary, {"format": "pt", **(metadata or {})})
        _order_metadata(temporary)


def _order_metadata(file: Path) -> None:
    """Sort a safetensors header's metadata, whose order the library leaves to chance."""
    with file.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:  # spaces may follow; no header grows by being sorted
            stream.seek(8)
            stream.write(text.ljust(size))


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read safetensors with its metadata; ModelError names a missing, pickled or damaged file."""
    if file.suffix not in (".safetensors", ".tmp"):
        raise ModelError(
            f"{file} is not safetensors; pickled weights (.ckpt, .pt, .bin) can run code "
            "and are not loaded."
        )
    if not file.is_file():
        raise ModelError(f"there is no file {file}.")
    if not os.access(file, os.R_OK):
        raise ModelError(f"{file} may not be read.")
    try:
        with safe_open(file, framework="pt") as opened:
            return {
                name: opened.get_tensor(name)
                for name in opened.keys()  # noqa: SIM118
            }, opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged or no safetensors file: {error}.") from error
