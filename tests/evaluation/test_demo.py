"""The demo page: what it draws, its limits, and that it answers."""

import socket
from pathlib import Path

import numpy as np
import pytest

from erasure.erasing import erase
from erasure.errors import EditError, SettingError
from evaluation.demo import HOST, LONGEST, SHOWN, Studio, build, demo

CAT, KEPT = "A cat image in Winter style.", "A house image in Winter style."


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return erase("pocket", "uce", ["cat"], out=tmp_path_factory.mktemp("runs") / "cat").folder


def test_the_concept_differs_and_a_kept_one_agrees(run: Path) -> None:
    studio = Studio({"cat": run})
    before, after, was, now = studio.draw("cat", CAT, 188000, 8, 3.0, 2)
    assert [picture.size for picture in before + after] == [(SHOWN, SHOWN)] * 4
    assert all(label.startswith("cat, ") for label in was)
    assert not any(label.startswith("cat, ") for label in now)
    kept = studio.draw("cat", KEPT, 188000, 8, 3.0, 1)
    changed, same = (
        float(np.abs(np.asarray(b, float) - np.asarray(a, float)).mean())
        for b, a in ((before[0], after[0]), (kept[0][0], kept[1][0]))
    )
    assert same < changed / 4
    assert kept[2] == kept[3]
    # asked again, the models are the same as before; one image alone rounds a little differently
    again = np.asarray(studio.draw("cat", CAT, 188000, 8, 3.0, 1)[1][0], float)
    assert np.abs(again - np.asarray(after[0], float)).max() <= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "dog"}, "run must be one of cat; got 'dog'"),
        ({"prompt": "x" * (LONGEST + 1)}, "prompt must have at most"),
        ({"steps": 1000}, "steps must be 1 to 50; got 1000"),
        ({"count": 99}, "seeds must be 1 to 6"),
        ({"guidance": -1.0}, "guidance must be 0 to 20"),
        ({"seed": -5}, "seed must be 0 to"),
    ],
)
def test_requests_beyond_the_limits_are_refused(
    run: Path, change: dict[str, object], message: str
) -> None:
    asked = {"name": "cat", "prompt": CAT, "seed": 1, "steps": 2, "guidance": 3.0, "count": 1}
    with pytest.raises(SettingError, match=message):
        Studio({"cat": run}).draw(**{**asked, **change})  # type: ignore[arg-type]


def test_the_served_page_answers(run: Path) -> None:
    from gradio_client import Client

    page = build([run])
    try:
        _, address, _ = page.launch(server_name=HOST, prevent_thread_lock=True, quiet=True)
        client = Client(address, verbose=False)
        name = f"cat erased by uce ({run})"
        pair, judged, gallery = client.predict(name, CAT, 188000, 4, 3.0, 2, api_name="/compare")
        assert len(pair) == 2
        assert "before" in judged
        assert len(gallery) == 4
        with pytest.raises(Exception, match="maximum value 50"):
            client.predict(name, CAT, 188000, 400, 3.0, 2, api_name="/compare")
    finally:
        page.close()


def test_a_taken_port_and_a_run_without_edit(run: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(SettingError, match="is taken; name another with --port"):
            demo([run], port=taken.getsockname()[1])
    with pytest.raises(EditError, match="holds no finished erasure"):
        build([tmp_path])
    with pytest.raises(SettingError, match="at least one run"):
        demo([])
