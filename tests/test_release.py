"""What a release rests on: one version, and the bounds of what it needs."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from oldest import oldest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITED = {
    "CITATION.cff": r"^version: (.+)$",
    "README.md": r"version = \{(.+?)\}",
    "CHANGELOG.md": r"^## (\S+)",  # its first heading, of what is being made
}


@pytest.mark.parametrize("file", CITED)
def test_what_is_cited_is_the_version_of_pyproject(file: str) -> None:
    found = re.search(CITED[file], (ROOT / file).read_text(), re.MULTILINE)
    assert found
    assert found[1] == PROJECT["version"]


def test_the_usual_pins_lie_within_the_bounds() -> None:
    lines = (ROOT / "constraints.txt").read_text().lower().replace("_", "-").split()
    pins = dict(line.split("==") for line in lines)
    for requirement in map(Requirement, PROJECT["dependencies"]):
        assert requirement.specifier.contains(pins[requirement.name.lower().replace("_", "-")])


def test_the_oldest_pins_are_the_lower_bounds_of_all_that_have_one(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    text = """
    [project]
    dependencies = ["numpy>=2.0", "torch>=2.9,<3"]
    optional-dependencies = {docs = ["mkdocstrings[python]>=1.0", "xformers"], dev = ["numpy>=2.0"]}
    """
    file.write_text(text)
    assert oldest(file) == ["mkdocstrings==1.0", "numpy==2.0", "torch==2.9"]
    file.write_text(text.replace("numpy>=2.0", "numpy~=2.0"))
    with pytest.raises(ValueError, match=r"NAME>=VERSION; got 'numpy~=2.0'"):
        oldest(file)
    assert len(oldest()) >= len(PROJECT["dependencies"])
