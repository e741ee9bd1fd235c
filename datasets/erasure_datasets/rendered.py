"""Pocket Canvas renders, kept in the user's cache: drawn once, the same bits ever after.

The folder is ERASURE_CACHE, or erasure-toolkit in XDG_CACHE_HOME or ~/.cache; ERASURE_CACHE=off
keeps nothing. A file is named after everything that decides its content and begins with a digest
of it, so that a damaged one is drawn again. Processes may share the folder.
"""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from erasure_datasets.canvas import SIZE, render

Place = tuple[int, int, int]  # object, style and image, as `render` takes them
HEAD = hashlib.sha256().digest_size


def rendered(places: Sequence[Place]) -> NDArray[np.uint8]:
    """`render` of every place: uint8 in [0, 255], (n, 64, 64, 3)."""
    shape = (len(places), SIZE, SIZE, 3)
    key = hashlib.sha256(f"{_made_by()} {list(places)}".encode()).hexdigest()
    folder = cache_folder()
    file = folder / f"canvas-{key[:32]}.bin" if folder else None
    if file is not None and (known := _read(file, int(np.prod(shape)))) is not None:
        return known.reshape(shape)
    images = np.stack([render(*place) for place in places]) if places else np.zeros(shape, np.uint8)
    if file is not None:
        _write(file, images.tobytes())
    return images


def cache_folder() -> Path | None:
    """Where renders are kept; None where they are not."""
    asked = os.environ.get("ERASURE_CACHE", "")
    if asked.lower() == "off":
        return None
    if asked:
        return Path(asked).expanduser()
    with suppress(RuntimeError):  # a user without a home
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "erasure-toolkit"
    return None


@cache
def _made_by() -> str:
    """A digest of the code, the glyphs and the libraries that draw."""
    here, digest = Path(__file__).parent, hashlib.sha256()
    for file in [here / "canvas.py", here / "styles.py", *sorted((here / "glyphs").rglob("*.png"))]:
        digest.update(file.name.encode() + file.read_bytes())
    versions = [version(name) for name in ("numpy", "scipy", "pillow")]
    return f"{digest.hexdigest()} {versions}"


def _read(file: Path, size: int) -> NDArray[np.uint8] | None:
    """What `_write` kept, if it is whole."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    pixels = content[HEAD:]
    is_whole = len(pixels) == size and hashlib.sha256(pixels).digest() == content[:HEAD]
    return np.frombuffer(bytearray(pixels), np.uint8) if is_whole else None


def _write(file: Path, pixels: bytes) -> None:
    """Keep pixels; a folder that cannot be written to is done without."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".", delete=False) as stream:
            stream.write(hashlib.sha256(pixels).digest() + pixels)
        os.replace(stream.name, file)
