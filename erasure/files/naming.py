"""Names of concepts, classes and judges as names of files, and of paths as others are told them."""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

from erasure.errors import ErasureError, SettingError

LONGEST = 100  # bytes; file systems take 255, and endings and numbers are added
# what Windows keeps for devices
RESERVED = re.compile(r"(?i)^(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)")


def slug(name: str) -> str:
    """A file's or folder's name for any text: no separators, never hidden, never too long.

    Letters, digits, "-" and inner "." stay, blanks become "_". Of anything else a digest of the
    name is added, so that two names share a slug only if they differ in case alone.
    """
    plain = re.sub(r"[^\w.-]", "_", name.replace(" ", "_"))
    is_same = plain == name.replace(" ", "_") and "_" not in name and name == name.strip(" .")
    is_fit = 0 < len(plain.encode()) <= LONGEST and plain[0] not in ".-"
    if is_same and is_fit and not RESERVED.match(plain):
        return plain
    short = plain.encode()[:LONGEST].decode(errors="ignore").strip("._-") or "name"
    return f"{short}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def checked_path(text: object, what: str, *, error: type[ErasureError] = SettingError) -> Path:
    """The path of a text from a user or a record, as it stands; it need not be there.

    `error`, in one line, for an empty text and for what no file of this system can be called.
    """
    if not isinstance(text, (str, os.PathLike)):
        raise error(f"{what} must be a path; got {text!r}.")
    if not str(text).strip():
        raise error(f"{what} must not be empty.")
    try:
        Path(text).expanduser().stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError, RuntimeError) as failed:
        reason = getattr(failed, "strerror", None) or str(failed)
        shown = ascii(shorten(str(text), 60) or str(text)[:60])
        raise error(f"{what} must be a path; got {shown}: {reason}.") from failed
    return Path(text)


def places_of(runs: Sequence[Path]) -> list[Path]:
    """Each run's folder, absolute; SettingError for one that is named twice."""
    places = [run.resolve() for run in runs]
    twice = next((run for run in runs if places.count(run.resolve()) > 1), None)
    if twice is not None:
        raise SettingError(f"{twice} is named twice.")
    return places


def short_names(places: Sequence[Path], least: int = 1) -> list[str]:
    """The last parts of each place, as few as tell them apart, but no fewer than `least`.

    Parts of this user's own folder and of the working directory come last of all.
    """
    parts = [_below_home(place) for place in places]
    for count in range(least, max([least, *(len(p) for p in parts)])):
        names = ["/".join(p[-count:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    names = ["/".join(p[-max(least, len(p)) :]) for p in parts]
    is_told = len(set(names)) == len(names)
    return names if is_told else [f"{name} ({number})" for number, name in enumerate(names, 1)]


def _below_home(place: Path) -> tuple[str, ...]:
    for root in (Path.cwd(), Path.home()):
        if place != root and place.is_relative_to(root):
            return place.relative_to(root).parts
    return place.parts[1:] or (place.name,)
