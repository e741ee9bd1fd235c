"""What the README and the tutorials tell a reader to type is typed here, page by page.

Training and searching take their `--quick` values, protocols a part of their images, and where a
page names a real Stable Diffusion, a miniature stands in its place. A block that is not run has a
line of its own in the list of tests, with the reason.
"""

import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from documents import PAGES, ROOT, Block, blocks, every_block

from erasure.commandline.main import app, main

STAND_INS = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "./my-sd",
    "ViT-B-32:laion2b_s34b_b79k": "my-clip",
    'subset="80"': 'subset="17"',
    "prompts=4": "prompts=1, seeds=(188,), quick=True",
}
LEAST = {
    "erase": ["--quick"],
    "forget": ["--quick", "--images", "4", "--test-images", "2"],
    "attack": ["--quick", "--prompts", "1", "--seeds", "188"],
}
LONGER = ("docs/how-to/", "docs/getting-started.md", "docs/tutorials/red-team.md")  # slow tests
RUN = [page for page in PAGES if any(not block.mark for block in blocks(page))]
LONG = (pytest.mark.slow, pytest.mark.timeout(3600))
SLOW = [page for page in PAGES if any(block.mark == "slow" for block in blocks(page))]
NOT_RUN = [
    pytest.param(block, words, id=f"{block.page}:{block.line} not run ({block.reason}): {words[0]}")
    for block in every_block() if block.mark == "not run" for words in block.commands()
]  # fmt: skip


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def timed(page: Path) -> Any:
    """A page, marked slow if it is one of the longer ones."""
    is_longer = name_of(page).startswith(LONGER)
    return pytest.param(page, marks=LONG if is_longer else [])


@pytest.fixture
def reader(
    tmp_path: Path, sd1: Path, sdxl: Path, clip_folder: Path, plugin: Callable[[Path, str], Path],  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> Path:  # fmt: skip
    """A folder with two models and a CLIP in it; plug-ins that are loaded there are forgotten."""
    shutil.copytree(sd1, tmp_path / "my-sd")
    shutil.copytree(sdxl, tmp_path / "my-sdxl")
    shutil.copytree(clip_folder, tmp_path / "my-clip")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [timed(page) for page in RUN], ids=name_of)
def test_what_the_page_tells_to_type_runs(
    page: Path, reader: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow(page, reader, monkeypatch, slow=False)


@pytest.mark.parametrize("page", [pytest.param(page, marks=LONG) for page in SLOW], ids=name_of)
def test_all_of_the_page_runs(page: Path, reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follow(page, reader, monkeypatch, slow=True)


def follow(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, slow: bool) -> None:
    """Type a page's blocks in turn."""
    for block in blocks(page):
        if block.mark == "not run" or (block.mark == "slow" and not slow):
            continue
        if block.title:
            (folder / block.title).write_text(block.text)
        elif block.language == "python":
            exec(compile(stood_in(block.text), f"{block.page}:{block.line}", "exec"), {})
        else:
            for words in block.commands():
                type_in(block, words, monkeypatch)


def type_in(block: Block, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one command line of this toolkit in this process."""
    where = f"{block.page}:{block.line}: {' '.join(words)}"
    assert words[0] == "erasure", f"{where}: mark the block as not run"
    typed = [stood_in(word) for word in words[1:]]
    monkeypatch.setattr(sys, "argv", ["erasure", *typed, *least(typed)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0, where


def stood_in(text: str) -> str:
    for known, here in STAND_INS.items():
        text = text.replace(known, here)
    return text


def least(words: list[str]) -> list[str]:
    """What is added so that a command takes seconds."""
    plain = [word for word in words if word in (*LEAST, "evaluate", "list", "report", "export")]
    command = plain[0] if plain else ""
    if "--dry-run" in words or "--from" in words:
        return []
    if command == "evaluate" and "--clip" in words:
        return ["--seeds", "188", "--keep", "1", "--steps", "2"]
    if command == "evaluate":
        run = next(word for word in words if word.startswith("runs/"))
        draws = not (Path(run) / "requests.json").is_file() and "--protocol" not in words
        return ["--subset", "17"] if draws else []
    if "attack" in words and "runs/tower" in words:
        # with as many prompts as the page says: `all` goes on from those before it, and gold, which
        # draws one tower, would draw all of a single case
        return ["--quick", "--seeds", "188"]
    return LEAST.get(command, [])


@pytest.mark.parametrize(("block", "words"), NOT_RUN)
def test_what_is_not_run_exists(block: Block, words: list[str]) -> None:
    """Options, targets, scripts and extras that are named are there."""
    while "=" in words[0]:  # HF_TOKEN=... before a command
        words = words[1:]
    if words[0] == "accelerate":
        words = words[words.index("-m") + 1 :]
    if words[0] == "erasure":
        parse(words[1:])
    elif words[0] == "make":
        assert re.search(f"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[0] == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = re.search(r"\[(.+)\]", words[2])
        assert extras is not None
        assert set(extras.group(1).split(",")) <= project["optional-dependencies"].keys()
    else:
        assert words[0] in ("git", "cd"), f"{block.page}:{block.line}: what is {words[0]}?"


def parse(words: list[str]) -> None:
    """Read a command line as the program does, and stop before it does anything."""
    command = typer.main.get_command(app)
    while hasattr(command, "get_command"):
        command = command.get_command(None, words[0])  # type: ignore[arg-type]
        words = words[1:]
    command.make_context("erasure", list(words))


def test_an_unknown_option_in_a_page_is_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["erase", "esd", "--concept", "cat", "--out", "runs/cat", "--speed", "2"])


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 8192
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / target).exists(), target
