"""One process at a time in a run's folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from erasure.errors import RunError


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder; RunError if another process does. A killed process lets go of it."""
    file = folder / ".lock"
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"another process is at work in {folder}; wait for it, or name another --out."
        ) from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()
