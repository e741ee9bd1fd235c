"""Renders from the cache are those that are drawn."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from erasure_datasets import rendered
from erasure_datasets.canvas import render

PLACES = [(0, 0, 0), (3, 7, 1), (15, 15, 2)]


@pytest.fixture
def drawn() -> np.ndarray:
    return np.stack([render(*place) for place in PLACES])


def test_a_render_is_drawn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: np.ndarray
) -> None:
    monkeypatch.setenv("ERASURE_CACHE", str(tmp_path))
    assert np.array_equal(rendered.rendered(PLACES), drawn)
    monkeypatch.setattr(rendered, "render", None)
    again = rendered.rendered(PLACES)
    assert np.array_equal(again, drawn)
    again[:] = 0  # the caller's own
    assert np.array_equal(rendered.rendered(PLACES), drawn)
    assert len([*tmp_path.iterdir()]) == 1


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_file_is_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: np.ndarray, damage: bytes | None
) -> None:
    monkeypatch.setenv("ERASURE_CACHE", str(tmp_path))
    rendered.rendered(PLACES)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content if damage is None else damage)
    assert np.array_equal(rendered.rendered(PLACES), drawn)
    assert np.array_equal(rendered.rendered(PLACES), drawn)


def test_without_a_cache_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: np.ndarray
) -> None:
    (tmp_path / "a file").write_text("")
    for asked in ("off", str(tmp_path / "a file" / "below"), "/proc/nowhere"):
        monkeypatch.setenv("ERASURE_CACHE", asked)
        assert np.array_equal(rendered.rendered(PLACES), drawn)
    assert rendered.rendered([]).shape == (0, 64, 64, 3)


def test_threads_may_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: np.ndarray
) -> None:
    monkeypatch.setenv("ERASURE_CACHE", str(tmp_path))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: rendered.rendered(PLACES), range(8)):
            assert np.array_equal(found, drawn)
    assert len([*tmp_path.iterdir()]) == 1
