"""The demo of runs on a user's own Stable Diffusion, whose concepts are any text."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from altered import copied, one_of, weighted
from torch import Tensor

from erasure.erasing import erase
from erasure.errors import EditError
from evaluation.demo.demo import build, serve
from evaluation.demo.studio import SHOWN, Picture, Studio

CRITERION = "def shows(images):\n    return (images.float().mean((1, 2, 3)) > 0)\n"


@pytest.fixture(scope="module")
def run(sd1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return erase(
        sd1, "uce", ["church", "Van Gogh"], kind=["object", "style"], stay=0.01,
        out=tmp_path_factory.mktemp("runs") / "church",
    ).folder  # fmt: skip


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    page = build([run])
    yield serve(page).rstrip("/")
    page.close()


def asked(address: str, name: str, data: list[Any]) -> tuple[str, str]:
    """("complete" | "error", the answer's text)."""
    sent = httpx.post(f"{address}/gradio_api/call/{name}", json={"data": data}, timeout=60)
    url, event = f"{address}/gradio_api/call/{name}/{sent.json()['event_id']}", ""
    with httpx.stream("GET", url, timeout=120) as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: ") and event in ("complete", "error"):
                return event, json.dumps(json.loads(line.removeprefix("data: ")))
    return "error", "the stream ended"


def test_it_draws_before_and_after_and_offers_what_was_erased(run: Path) -> None:
    studio = Studio({"church": run})
    prompts = list(studio.prompts("church").items())
    assert prompts[:2] == [
        ("church (erased)", "an image of a church"),
        ("Van Gogh (erased)", "an image in Van Gogh style"),
    ]
    assert len(prompts) > 10
    ((before, after),) = studio.draw(["church"], "a church at night", 1, 3, 7.5, 1, lambda *_: None)
    assert (before.of, after.of) == ("sd1, un-erased", "church")
    assert before.image.size == after.image.size == (SHOWN, SHOWN)
    assert not np.array_equal(before.image, after.image)
    assert studio.is_small


def test_the_page_tells_no_place_and_why_an_attack_needs_a_criterion(
    address: str, run: Path, sd1: Path
) -> None:
    end, answer = asked(address, "compare", [["church"], "a church", 1, 2, 7.5, 1])
    assert end == "complete", answer
    refused, why = asked(address, "attack", [["church"], "church", "paraphrase"])
    assert refused == "error"
    assert "no judge knows the concept" in why
    assert "clip=NAME:PRETRAINED" in why
    page = httpx.get(address).text + httpx.get(f"{address}/config").text
    for place in (str(sd1), str(sd1.parent), str(run), str(run.parent)):
        assert place not in why
        assert place not in page


def test_an_attack_with_a_criterion_of_ones_own(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(CRITERION)
    studio = Studio({"church": run}, criterion=f"{file}:shows")
    found = studio.attack("church", "church", "paraphrase", lambda *_: None)
    assert found.outcomes
    assert all(outcome.success for outcome in found.outcomes)


def drawn(studio: Studio, *names: str) -> list[Picture]:
    return studio.draw(names, "a church", 1, 2, 7.5, 1, lambda *_: None)[0]


def test_a_base_that_changed_between_two_runs_is_not_taken_for_both(
    sd1: Path, tmp_path: Path
) -> None:
    base = copied(sd1, tmp_path)
    before, after = (tmp_path / name for name in ("before", "after"))
    erase(base, "uce", ["church"], kind="object", out=before)
    shutil.rmtree(base / "unet")
    shutil.copytree(weighted(sd1, tmp_path / "moved", "unet", doubled) / "unet", base / "unet")
    erase(base, "uce", ["church"], kind="object", out=after)
    studio = Studio({"after": after, "before": before})
    first = drawn(studio, "after")
    for names in (["before"], ["after", "before"]):
        with pytest.raises(EditError, match="they have changed since"):
            drawn(studio, *names)
    for one, other in zip(first, drawn(studio, "after"), strict=True):
        assert np.array_equal(one.image, other.image)


def doubled(tensors: dict[str, Tensor]) -> None:
    tensors[one_of(tensors, "conv_out.weight")] *= 2


def test_bases_of_one_name_are_told_apart(sd1: Path, tmp_path: Path) -> None:
    runs = {}
    for name in ("one", "other"):
        base = copied(sd1, tmp_path / name)
        runs[name] = erase(
            base, "uce", ["church"], kind="object", out=tmp_path / f"{name}-run"
        ).folder
    row = drawn(Studio(runs), "one", "other")
    assert [picture.of for picture in row] == [
        "altered, un-erased for one", "one", "altered, un-erased for other", "other",
    ]  # fmt: skip
