"""TOML that users write: read whole, or refused in one line."""

import tomllib
from pathlib import Path
from typing import Any

from erasure.errors import SettingError


def read_toml(file: Path, what: str = "settings") -> dict[str, Any]:
    """The file's keys; SettingError, which says `what` the file is for, if it is no TOML file."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SettingError(
            f"{what} must be a TOML file; {file}: {error.strerror or error}."
        ) from error
    except (ValueError, RecursionError) as error:  # TOML's and Unicode's are ValueErrors
        raise SettingError(f"{file} is not readable as TOML: {error}.") from error
