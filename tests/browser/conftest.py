"""A headless Chromium that speaks only to this machine, and pages to look at."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)

from erasure.erasing import erase

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-quic",
    "--no-first-run", "--disable-component-update", "--disable-sync",
)  # fmt: skip
WAIT = 120_000  # ms; a slow machine draws a picture in seconds
expect.set_options(timeout=WAIT)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.fail("the browser tests need Debian's chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh window; the test fails if its page complains or asks for anything elsewhere."""
    complaints: list[str] = []

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(f"console: {message.text}")

    def asked(request: Request) -> None:
        if not request.url.startswith(("data:", "blob:", "file:", "http://127.0.0.1:")):
            complaints.append(f"asked for {request.url}")

    def answered(response: Response) -> None:
        if response.status >= 400:
            complaints.append(f"{response.status} from {response.url}")

    window = browser.new_page(viewport={"width": 1200, "height": 900})
    window.set_default_timeout(WAIT)
    window.on("console", heard)
    window.on("pageerror", lambda error: complaints.append(f"script: {error}"))
    window.on("request", asked)
    window.on("response", answered)
    yield window
    window.close()
    assert complaints == []


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [
        erase("pocket", "uce", [concept], out=root / concept.lower()).folder
        for concept in ("cat", "Winter")
    ]
