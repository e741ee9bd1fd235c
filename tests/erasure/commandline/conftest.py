"""The command line in this process."""

import sys
from collections.abc import Callable

import pytest

from erasure.commandline.main import main

Said = tuple[int, str, str]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., Said]:
    """Run `erasure` with arguments: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["erasure", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run
