"""`erasure env`: enough for a bug report, and nothing of whose machine it is."""

import platform
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from erasure.commandline import environment

Program = Callable[..., tuple[int, str, str]]


def test_it_tells_versions_devices_and_extras_but_no_secret_and_no_path(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HOME", "/home/somebody/cache")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("SOMETHING_ELSE", "private")
    code, out, err = program("env")
    assert code == 0, err
    facts = dict(line.strip().split(None, 1) for line in out.splitlines() if "  " in line.strip())
    assert facts["torch"] == torch.__version__.partition("+")[0]
    assert facts["python"] == platform.python_version()
    assert torch.backends.cpu.get_cpu_capability() in out
    assert {"demo", "inception", "nudenet", "xformers", "8bit"} <= facts.keys()
    assert facts["CUDA_VISIBLE_DEVICES"] == "''"
    assert facts["HF_TOKEN"] == facts["HF_HOME"] == "set"
    for secret in ("hf_secret", "somebody", "private", "SOMETHING_ELSE", str(Path.home()), "/"):
        assert secret not in out.replace(" (", ""), secret


def test_an_extra_that_is_missing_says_what_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["torch>=2", 'numpy>=2; extra == "demo"', "no_such_package; extra == 'demo'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: needs)
    assert environment._extras() == {"demo": ["numpy", "no_such_package"]}
    told = environment._installed(["numpy", "no_such_package"])
    assert told.startswith("numpy 2.")
    assert told.endswith("; not installed: no_such_package")
