"""Images that any tool made, in one folder, by the file names that a protocol gives them."""

import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from erasure.errors import SettingError
from erasure_datasets.errors import DataWarning
from erasure_datasets.images import (
    ImageError,
    find_images,
    image_size,
    read_image,
    unread,
    warn_of_unread,
)
from evaluation.drawing.drawn import CLAIM

AT_ONCE = 64


def find_answers(
    folder: Path, wanted: Sequence[str], known: Sequence[str], *, size: int
) -> list[Path]:
    """The files of the `wanted` names, in their order; endings do not count.

    A warning tells what else lies there. SettingError if one is missing or there twice, if an image
    has a name that is none of `known`, or is not `size` pixels square.
    """
    if not folder.is_dir():
        raise SettingError(f"images must be a folder; there is no folder {folder}.")
    files = find_images(folder)
    found = {file.stem: file for file in files}
    twice = [stem for stem, count in Counter(file.stem for file in files).items() if count > 1]
    if twice:
        raise SettingError(f"{folder} has {twice[0]} twice, with different endings.")
    expected = {Path(name).stem: name for name in known}
    extra = [file.name for file in files if file.stem not in expected]
    if extra:
        raise SettingError(
            f"{folder} has {len(extra)} images that the answer set does not; the first is "
            f"{extra[0]}. Names are like {known[0]}."
        )
    stems = [Path(name).stem for name in wanted]
    missing = [expected[stem] for stem in stems if stem not in found]
    if missing:
        raise SettingError(
            f"{folder} lacks {len(missing)} of the answer set's {len(stems)} images; the first is "
            f"{missing[0]}. Seeds and subset say what is asked for."
        )
    for stem in stems:
        _check_size(found[stem], size)
    _warn_of_others(folder, files, {found[stem] for stem in stems})
    return [found[stem] for stem in stems]


def _warn_of_others(folder: Path, files: Sequence[Path], judged: Collection[Path]) -> None:
    """A warning, in one line each, of files that are no images and of images not asked for."""
    warn_of_unread(folder, unread(folder, [*files, folder / CLAIM]))
    beside = [file.name for file in files if file not in judged]
    if beside:
        warnings.warn(
            f"{folder} has {len(beside)} images that are not judged, beside the {len(judged)} that "
            f"seeds and subset ask for; the first is {beside[0]}.",
            DataWarning,
            stacklevel=3,
        )


def _check_size(file: Path, size: int) -> None:
    try:
        width, height = image_size(file)
    except ImageError as error:
        raise SettingError(f"images: {error}") from error
    if (width, height) != (size, size):
        raise SettingError(f"images must be {size} x {size} px; {file.name} is {width} x {height}.")


def read_in_parts(files: Sequence[Path]) -> Iterator[UInt8[Tensor, "n 3 h w"]]:
    """Images in [0, 255] of files of one size, a few at a time.

    SettingError if one cannot be read whole.
    """
    for start in range(0, len(files), AT_ONCE):
        try:
            part = [read_image(file) for file in files[start : start + AT_ONCE]]
        except ImageError as error:
            raise SettingError(f"images: {error}") from error
        yield torch.stack(part)
