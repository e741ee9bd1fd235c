"""Data sets in Hugging Face's format, from the Hub or a local folder."""

import logging
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from erasure_datasets.errors import DataError
from erasure_datasets.images import ImageError, decode_image, read_image

HUB = "hf:"  # how the name of a set begins, where a folder of pictures may be meant as well


def holds_parquet(folder: Path) -> bool:
    """Whether a folder holds parquet files as the Hub keeps them: in it, or one folder below."""
    return any(folder.glob("*.parquet")) or any(folder.glob("*/*.parquet"))


def open_set(name: str, split: str | None = None, *, what: str = "") -> Any:
    """The set's splits, or one of them; DataError, which says `what`, if it cannot be opened."""
    import datasets
    from datasets.exceptions import DatasetsError

    # a folder's README need not be a card of the Hub's
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)
    try:
        return datasets.load_dataset(name, split=split)
    except (OSError, ValueError, LookupError, DatasetsError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        what = what or f"{HUB}{name}"
        raise DataError(f"{what} cannot be opened as a data set: {reason}.") from error


def stored_images(rows: Any, column: str) -> Any:
    """The rows with this column's images as stored, for `decode_cell`."""
    import datasets

    if not isinstance(rows.features[column], datasets.Image):
        raise DataError(f"the column {column!r} must hold images; has {rows.features[column]}.")
    return rows.cast_column(column, datasets.Image(decode=False))


def decode_cell(cell: Any, where: str, size: int | None) -> UInt8[Tensor, "3 h w"]:
    """As `read_image`, of a cell of `stored_images`; ImageError names `where` it stands."""
    if cell and cell["bytes"] is not None:
        return decode_image(cell["bytes"], where, size)
    if not cell or not cell["path"]:
        raise ImageError(f"{where} holds no picture.")
    return read_image(Path(cell["path"]), size)
