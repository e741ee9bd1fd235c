"""The documentation, built and read from the disk: nothing comes from elsewhere, nothing is cut."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page

ROOT = Path(__file__).parents[2]
LOOKED_AT = (
    "index.html", "getting-started.html", "methods/index.html", "methods/diffusion/esd.html",
    "attacks/unlearndiffatk.html", "commands/erase.html", "reference/python.html",
    "results/under-attack.html", "results/classes.html", "reference/pocket.html",
)  # fmt: skip


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    packages = os.pathsep.join([str(ROOT), str(ROOT / "datasets")])
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": packages}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_need_no_network_and_fit_their_window(site: Path, page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    for place in LOOKED_AT:
        page.goto((site / place).as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, place
        assert page.locator("main h1").count() >= 1, place
