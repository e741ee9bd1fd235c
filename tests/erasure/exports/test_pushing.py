"""`erasure push` against a stand-in for the Hub's endpoint, over HTTP, as the command line."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.exports.exporting import export
from erasure.exports.pushing import _written
from erasure.exports.pushing import push as push_folder
from erasure_datasets.concept import Concept


class Hub(ThreadingHTTPServer):
    """Remembers who asked for what, and the files of each commit."""

    def __init__(self, refuses: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.refuses = refuses
        self.is_private = True  # of every repository
        self.tokens: set[str | None] = set()
        self.made: list[dict] = []
        self.cards: list[str] = []
        self.files: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}  # large files by their sha256

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub  # type: ignore[assignment]

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.body()
        self.server.tokens.add(self.headers["Authorization"])
        if self.server.refuses:
            return self.answer({"error": "Invalid username or password."}, 401)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            self.server.made.append(asked)
            owner = asked.get("organization") or "me"
            return self.answer({"url": f"{self.server.address}/{owner}/{asked['name']}"})
        if self.path == "/api/validate-yaml":
            self.server.cards.append(json.loads(body)["content"])
            return self.answer({"errors": [], "warnings": []})
        if "/preupload/" in self.path:
            files = [
                {
                    "path": file["path"], "shouldIgnore": False,
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                }
                for file in json.loads(body)["files"]
            ]  # fmt: skip
            return self.answer({"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            wanted = [
                {**one, "actions": {"upload": {"href": f"{self.server.address}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self.answer({"transfer": "basic", "objects": wanted})
        if "/commit/" in self.path:
            for line in body.splitlines():
                self.commit(**json.loads(line))
            url = f"{self.server.address}/me/gone/commit/{'0' * 40}"
            return self.answer({"commitUrl": url, "commitOid": "0" * 40})
        return self.answer({"error": f"unknown {self.path}"}, 404)

    def do_PUT(self) -> None:
        self.server.stored[self.path.rsplit("/", 1)[1]] = self.body()
        self.answer({})

    def do_GET(self) -> None:
        known = {"siblings": [], "sha": "0" * 40, "id": "me/gone", "tags": []}
        self.answer({**known, "private": self.server.is_private})

    def commit(self, key: str, value: dict) -> None:
        if key == "file":
            self.server.files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            self.server.files[value["path"]] = self.server.stored[value["oid"]]

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def answer(self, record: dict, code: int = 200) -> None:
        text = json.dumps(record).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture(params=[False])
def hub(request: pytest.FixtureRequest) -> Iterator[Hub]:
    server = Hub(refuses=request.param)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("push")
    concept = Concept("cat", "object", ("an image of a {name}",))
    Edit({"unet.x": torch.ones(3)}, "uce", [concept], "someone/sd").save(root / "run")
    return export(root / "run", root / "export", to="delta")


def push(
    tmp_path: Path, *words: str, endpoint: str, token: str | None = "hf_secret"
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: huggingface_hub reads its settings once."""
    settings = {
        "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    if token:
        settings["HF_TOKEN"] = token
    clean = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "HF_TOKEN_PATH")}
    return subprocess.run(
        [sys.executable, "-m", "erasure", "push", *words],
        env={**clean, **settings}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_every_file_arrives_in_one_private_repository(
    hub: Hub, exported: Path, tmp_path: Path
) -> None:
    done = push(tmp_path, str(exported), "me/gone", "--private", endpoint=hub.address)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.address}/me/gone"
    (made,) = hub.made
    assert (made["name"], made["organization"]) == ("gone", "me")
    assert made.get("visibility") == "private" or made.get("private")  # by hub version
    assert set(hub.cards) == {(exported / "README.md").read_text()}
    assert hub.tokens == {"Bearer hf_secret"}
    assert hub.files == {file.name: file.read_bytes() for file in exported.iterdir()}
    assert set(hub.files) == {"README.md", "edit.json", "edit.safetensors"}


def test_nothing_private_goes_into_a_public_repository(
    hub: Hub, exported: Path, tmp_path: Path
) -> None:
    hub.is_private = False
    done = push(tmp_path, str(exported), "me/gone", "--private", endpoint=hub.address)
    assert done.returncode == 2
    assert "me/gone exists and is public" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not hub.files
    assert not hub.stored


def test_only_what_export_wrote_goes(exported: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    whole = tmp_path / "export"
    shutil.copytree(exported, whole)
    (whole / ".env").write_text("hidden ones are left out")
    assert _written(whole) == ["README.md", "edit.json", "edit.safetensors"]
    for name, why in (
        ("model.ckpt", "none of those"), ("notes.json", "none of those"),
        ("unet/model.bin", "none of those"), ("samples/secret.safetensors", "none of those"),
        ("unet/config.json", "is a link"),
    ):  # fmt: skip
        place = whole / name
        place.parent.mkdir(exist_ok=True)
        if why == "is a link":
            place.symlink_to(secret)
        else:
            place.write_text("mine")
        with pytest.raises(SettingError, match=why):
            push_folder(whole, "me/gone")
        place.unlink()


@pytest.mark.parametrize("hub", [True], indirect=True)
def test_a_refusal_of_the_hub_is_one_line(hub: Hub, exported: Path, tmp_path: Path) -> None:
    done = push(tmp_path, str(exported), "me/gone", endpoint=hub.address)
    assert done.returncode == 2
    assert done.stderr.startswith(f"erasure: could not push {exported} to me/gone: ")
    assert "401" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_token_nothing_is_asked(hub: Hub, exported: Path, tmp_path: Path) -> None:
    done = push(tmp_path, str(exported), "me/gone", endpoint=hub.address, token=None)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "erasure: push needs a token of the Hub that may write: run `hf auth login`, "
        "or set HF_TOKEN."
    )
    assert not hub.tokens


def test_bad_requests(exported: Path, tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"  # discard: nothing listens there
    (tmp_path / "README.md").write_text("---\ntags: [mine]\n---\n# Some other model\n")
    for words, message in (
        ((str(tmp_path), "me/gone"), "has no README.md with the tag erasure-toolkit"),
        ((str(tmp_path / "missing"), "me/gone"), "has no README.md with the tag erasure-toolkit"),
        ((str(exported.parent / "run"), "me/gone"), "has no README.md"),
        ((str(exported), "me/gone/too-far"), "repo must be OWNER/NAME; "),
        ((str(exported), "me/gone"), f"could not push {exported} to me/gone: "),
    ):
        done = push(tmp_path, *words, endpoint=nowhere)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
