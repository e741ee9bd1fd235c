"""Names of concepts, classes and judges as names of files, and the paths that others name."""

import hashlib
import os
import re
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
