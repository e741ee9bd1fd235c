"""What a user can mend: one line on standard error and code 2, as of the toolkit's own commands."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from erasure.errors import ErasureError
from erasure_datasets.errors import DataError


@contextmanager
def in_a_line() -> Iterator[None]:
    """Within it, an error of the toolkit ends the script so."""
    try:
        yield
    except (ErasureError, DataError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def erasure(*words: object, **how: Any) -> None:
    """Run `erasure WORDS` as a user types it; the script ends with its code where it fails.

    `how` is what subprocess.run takes.
    """
    done = subprocess.run([sys.executable, "-m", "erasure", *map(str, words)], check=False, **how)
    if done.returncode:
        raise SystemExit(done.returncode)
