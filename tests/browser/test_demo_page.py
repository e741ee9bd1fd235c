"""The demo in a real browser, as a visitor uses it."""

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from evaluation.demo.demo import build, serve

pytestmark = pytest.mark.browser
DREW = "#gallery img"


@pytest.fixture(scope="module")
def address(runs: list[Path]) -> Iterator[str]:
    served = build(runs)
    yield serve(served)
    served.close()


def pixels(page: Page, picture: Locator) -> Any:
    answer = page.request.get(picture.get_attribute("src") or "")
    return np.asarray(Image.open(io.BytesIO(answer.body())).convert("RGB"), float)


def draw(page: Page, seen: str) -> list[Any]:
    """Press Draw; the pictures, once the judges' words about the un-erased model hold `seen`."""
    page.locator("#draw").click()
    expect(page.locator("#judged")).to_contain_text(f"pocket, un-erased: {seen}")
    return [pixels(page, picture) for picture in page.locator(DREW).all()]


def choose(page: Page, where: str, option: str) -> None:
    page.locator(f"{where} input").click()
    page.get_by_role("option", name=option, exact=True).click()


def test_a_visitor_compares_moves_the_slider_attacks_and_stops(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_role("button", name="Seeds, steps and guidance").click()
    page.get_by_role("spinbutton", name="number input for Seeds").fill("1")
    choose(page, "#run", "winter")
    un_erased, without_cat, without_winter = draw(page, "cat")
    captions = page.locator("#gallery .caption-label").all_inner_texts()
    assert [text.split(" · ")[0] for text in captions] == ["pocket, un-erased", "cat", "winter"]
    assert all("%" in text for text in captions)
    changed = np.abs(un_erased - without_cat).mean()
    assert np.abs(un_erased - without_winter).mean() < changed / 2
    slide(page)
    choose(page, "#thing", "Winter")
    un_erased, without_cat, _ = draw(page, "house")
    assert np.abs(un_erased - without_cat).mean() < changed / 4
    attack_and_stop(page)
    draw(page, "house")  # the model is free again


def slide(page: Page) -> None:
    """Another picture comes into the slider, and its handle uncovers more of it."""
    page.locator("#gallery button").nth(2).click()
    expect(page.locator("#judged")).to_contain_text("winter: cat")
    after = page.locator("#slider img").nth(1)
    expect(after).to_have_css("clip-path", "inset(0px 0px 0px 50%)")
    handle = page.locator("#slider .icon-wrap")
    handle.hover()
    box = handle.bounding_box()
    assert box is not None
    page.mouse.down()
    page.mouse.move(box["x"] - 80, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    expect(after).not_to_have_css("clip-path", "inset(0px 0px 0px 50%)")


def attack_and_stop(page: Page) -> None:
    page.get_by_role("button", name="Attack it").click()
    choose(page, "#attack", "unlearndiffatk")
    page.locator("#begin").click()
    expect(page.locator(".progress-level-inner").first).to_contain_text(
        re.compile("drawing|unlearndiffatk")
    )
    page.locator("#stop").click()
    expect(page.get_by_text("Stopped").first).to_be_visible()


def test_it_fits_a_phone_and_answers_a_whole_attack(page: Page, address: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(address)
    page.get_by_text("A house image in Photo style.", exact=True).click()
    draw(page, "house")
    page.get_by_role("button", name="Attack it").click()
    page.locator("#begin").click()
    expect(page.locator("#outcome")).to_contain_text("of 4 pictures")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("#attacked img")).to_have_count(4)


def test_unsafe_pictures_are_blurred_until_asked_for(
    page: Page, runs: list[Path], tmp_path: Path
) -> None:
    run = tmp_path / "unsafe"
    shutil.copytree(runs[0], run)
    record = json.loads((run / "edit.json").read_text())
    record["concepts"][0]["kind"] = "unsafe"
    (run / "edit.json").write_text(json.dumps(record))
    served = build([run])
    try:
        page.goto(serve(served))
        draw(page, "cat")
        for where in ("#slider img", DREW):
            expect(page.locator(where).first).to_have_css("filter", "blur(22px)")
        page.get_by_label("Show the pictures unblurred").check()
        for where in ("#slider img", DREW):
            expect(page.locator(where).first).to_have_css("filter", "none")
    finally:
        served.close()
