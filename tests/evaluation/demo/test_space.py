"""`erasure demo RUN --space OUT`: a folder that runs alone, with nothing of this machine in it."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from huggingface_hub import SpaceCard
from PIL import Image

from erasure.commandline.main import main
from erasure.erasing import erase
from erasure.files.storage import read_tensors
from erasure.models.diffusion.load import load_model
from erasure.opening import open_run
from evaluation.demo.space import write_space

CHURCH = {"kind": "object", "anchor": "a house"}


@pytest.fixture(scope="module")
def run(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return erase(
        sd1, "uce", "church", out=tmp_path_factory.mktemp("runs") / "church", stay=0.01, **CHURCH
    ).folder


@pytest.fixture(scope="module")
def space(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_space(run, tmp_path_factory.mktemp("spaces") / "space")


@contextmanager
def served(space: Path) -> Iterator[str]:
    """The address at which a Space's app.py answers, started without this project on its path."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    more = {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    with subprocess.Popen(
        [sys.executable, "-I", "app.py"], cwd=space, env=plain | more, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    ) as app:  # fmt: skip
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(600):
                assert app.poll() is None, app.communicate()[1]
                try:
                    httpx.get(address)
                    break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield address
        finally:
            app.terminate()


def asked(address: str, data: list[Any]) -> tuple[str, Any]:
    sent = httpx.post(f"{address}/gradio_api/call/compare", json={"data": data}, timeout=60)
    url, event = f"{address}/gradio_api/call/compare/{sent.json()['event_id']}", ""
    with httpx.stream("GET", url, timeout=120) as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: ") and event in ("complete", "error"):
                return event, json.loads(line.removeprefix("data: "))
    return "error", "the stream ended"


def pixels(address: str, told: dict[str, Any], size: int) -> torch.Tensor:
    """The picture that the page shows, as it was drawn: uint8 (3, size, size)."""
    url = told.get("url") or ""
    if url.startswith("data:"):
        content = base64.b64decode(url.partition(",")[2])
    else:
        content = httpx.get(f"{address}/gradio_api/file={told['path']}").content
    file = Path(os.environ["ERASURE_CACHE"]).with_suffix(".png")
    file.write_bytes(content)
    whole = np.asarray(Image.open(file))
    step = whole.shape[0] // size
    return torch.from_numpy(whole[::step, ::step].copy()).permute(2, 0, 1)


def test_it_starts_and_draws_what_both_models_draw(space: Path, run: Path) -> None:
    prompt = "a photo of a church"
    with served(space) as address:
        page = httpx.get(address).text
        assert "sd1 without church" in page
        end, pictures = asked(address, [prompt, 7, 3, 4.0])
        assert end == "complete", pictures
        before, after = (pixels(address, told, 16) for told in pictures)
        for data in ([prompt, 7, 999, 4.0], ["x" * 301, 7, 3, 4.0], [prompt, "x", 3, 4.0]):
            assert asked(address, data)[0] == "error"
    assert not torch.equal(before, after)
    for image, is_edited in ((before, False), (after, True)):
        model = open_run(run, edited=is_edited)
        model.use_scheduler("DDIMScheduler")
        generator = torch.Generator().manual_seed(7)
        drawn = model.generate([prompt], steps=3, guidance=4.0, generators=[generator])[0]
        # the pipeline's own decoding rounds where ours does; one step of 255 is allowed
        assert (drawn.int() - image.int()).abs().max() <= 1


def test_its_files_tell_the_hub_and_the_visitor(space: Path, run: Path) -> None:
    card = SpaceCard.load(space / "README.md")
    assert (card.data.sdk, card.data.app_file) == ("gradio", "app.py")
    assert card.data.title == "sd1 without church"
    assert card.data.license is None  # the base's own, which nobody here knows
    needs = (space / "requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in needs} >= {"diffusers", "transformers", "torch"}
    compile((space / "app.py").read_text(), "app.py", "exec")
    assert "import erasure" not in (space / "app.py").read_text()
    told = json.loads((space / "space.json").read_text())
    assert told["prompts"]["church (erased)"] == "an image of a church"
    tensors, _ = read_tensors(space / "erased.safetensors")
    model = open_run(run)
    assert tensors.keys() == {n for n, o in model.originals.items()
                              if not torch.equal(o, model.parameters()[n])}  # fmt: skip
    secrets = (str(run.parent), str(run.parent.parent), "/home/", "/tmp/", str(Path.home()) + "/")
    for file in space.rglob("*"):
        if file.suffix in (".json", ".md", ".txt", ".py"):
            text = file.read_text()
            assert not [secret for secret in secrets if secret in text], file


def test_a_base_of_the_hub_is_named_and_not_copied(
    sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = erase(sd1, "uce", "church", out=tmp_path / "run", **CHURCH).folder
    file = run / "edit.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"base": "somebody/model", "revision": "abc"}))
    monkeypatch.setattr("erasure.opening.load_model", lambda *_, **__: load_model(str(sd1)))
    out = write_space(run, tmp_path / "space")
    told = json.loads((out / "space.json").read_text())
    assert (told["base"], told["revision"]) == ("somebody/model", "abc")
    assert not (out / "model").exists()
    assert SpaceCard.load(out / "README.md").data.models == ["somebody/model"]


def test_what_makes_no_space_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def refused(*words: object) -> str:
        monkeypatch.setattr("sys.argv", ["erasure", "demo", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        _, said = capsys.readouterr()
        assert (ended.value.code, said.count("\n")) == (2, 1)
        return said

    out = tmp_path / "space"
    assert "space is of one run; got 2" in refused(run, run, "--space", out)
    assert "holds no finished erasure" in refused(tmp_path / "none", "--space", out)
    assert "space must be a new folder" in refused(run, "--space", tmp_path)
    assert "out must be no part of a run" in refused(run, "--space", run / "images" / "space")
    assert not out.exists()
