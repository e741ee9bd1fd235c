"""Names of models that mean the same everywhere."""

from pathlib import Path

import pytest

from erasure.models.load import BUILT_IN
from erasure.models.load_vit import BUILT_IN as CLASSIFIERS
from erasure.opening import lasting_name


def test_a_built_in_name_is_never_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (*BUILT_IN, *CLASSIFIERS):
        (tmp_path / name).mkdir()
        assert lasting_name(name) == name


def test_a_folder_is_named_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pocket-sd15", "user@host", "a b"):
        (tmp_path / name).mkdir()
        assert lasting_name(name) == lasting_name(f"./{name}/") == str(tmp_path / name)
    assert lasting_name("owner/name") == "owner/name"
    assert lasting_name("timm:vit") == "timm:vit"
