"""The report in a real browser: whole, silent, and readable by day, by night and on a phone."""

from pathlib import Path

import pytest
from playwright.sync_api import Page
from records import attacked, judged

from evaluation.reports.reporting import report

pytestmark = pytest.mark.browser
OVERFLOW = "document.documentElement.scrollWidth - innerWidth"
GROUND = "getComputedStyle(document.body).backgroundColor"
BROKEN = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
CLOSED = "document.querySelector('details:not([open]) table').offsetHeight"


def test_it_is_whole_and_silent_on_any_screen_and_on_paper(
    page: Page, runs: list[Path], tmp_path: Path
) -> None:
    for run, concept, wrong in zip(runs, ("cat", "Winter"), (0, 4), strict=True):
        judged(run, concept, wrong=wrong)
    attacked(runs[0])
    page.goto(report(runs, tmp_path / "all.html")[0].as_uri())
    assert page.inner_text("h1") == "2 runs side by side"
    assert page.get_by_role("img", name="How much is erased").is_visible()
    assert page.evaluate("document.images.length") == 10
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate(BROKEN) == 0
    assert page.evaluate(OVERFLOW) <= 0
    day = page.evaluate(GROUND)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(GROUND) != day
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate(OVERFLOW) <= 0
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = false)")
    page.emulate_media(media="print")
    assert page.evaluate(CLOSED) > 0  # paper cannot be unfolded
