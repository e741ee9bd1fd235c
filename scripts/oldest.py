"""Pins of the oldest versions that pyproject.toml allows: `python scripts/oldest.py > pins.txt`.

They are constraints for pip, of every direct dependency and every extra. Python's own library is
enough to run it, so that it can come before anything is installed.
"""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
BOUND = re.compile(r"(?P<name>[\w.-]+)(\[[^]]*\])?>=(?P<version>[\w.]+)(,.*)?")
UNBOUND = re.compile(r"[\w.-]+")


def oldest(file: Path = PROJECT) -> list[str]:
    """One "name==version" for each requirement that has a lower bound; one without is left out.

    ValueError for a requirement of any other form.
    """
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    pins = set[str]()
    for requirement in (*project["dependencies"], *(one for extra in extras for one in extra)):
        found = BOUND.fullmatch(requirement)
        if found:
            pins.add(f"{found['name']}=={found['version']}")
        elif not UNBOUND.fullmatch(requirement):
            raise ValueError(f"a requirement must be NAME or NAME>=VERSION; got {requirement!r}.")
    return sorted(pins)


if __name__ == "__main__":
    print("\n".join(oldest()))
