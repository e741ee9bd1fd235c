"""One process at a time in a run's folder."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from erasure.errors import RunError, StorageError
from erasure.files.storage import sweep

LOCK = ".lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if need be; RunError if another process does.

    What killed writes left in it is swept away first. A killed process lets go of it, and a folder
    that stays empty is removed again.
    """
    file = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _acquired(file)
    except Timeout:
        raise RunError(
            f"another process is at work in {folder}; wait for it, or name another --out."
        ) from None
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be a run's folder: {error.strerror or error}; name another --out."
        ) from error
    try:
        sweep(folder)
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # it holds something, or is gone
            folder.rmdir()


def is_held(folder: Path) -> bool:
    """Whether a process holds the folder now; nothing is made or removed."""
    file = folder / LOCK
    if not file.exists():
        return False
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _acquired(file: Path) -> FileLock:
    """The lock, on the file that has this name now: who held it before may have removed its own."""
    while True:
        lock = FileLock(file)
        lock.acquire(timeout=0)
        if file.exists():
            return lock
        lock.release()
