"""A command that is refused ends the script that gave it, without a traceback."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from refusals import erasure


def test_a_refused_command_ends_the_script(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        erasure("list", "nothing")
    assert ended.value.code == 2
    told = capfd.readouterr().err
    assert "erasure: list takes methods" in told
    assert "Traceback" not in told
    erasure("--version")
