"""Images in a folder are taken for what they are alone: other weights, edits, ways are refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import erasure
from erasure.errors import RunError
from erasure.models.diffusion.load import load_model
from erasure.opening import open_run
from erasure_datasets.images import read_image
from evaluation.drawing.generate import Shot, draw

SHOTS = [Shot(f"a {name}", seed, f"{name}.png") for seed, name in enumerate(("cat", "dog", "car"))]


@pytest.fixture(scope="module")
def erased(tmp_path_factory: pytest.TempPathFactory, sd1: Path) -> Path:
    run = tmp_path_factory.mktemp("runs") / "cat"
    return erasure.erase(str(sd1), "uce", ["cat"], kind="object", anchor="dog", out=run).folder


@pytest.fixture
def run(erased: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(erased, tmp_path / "cat"))


def drawn(run: Path, steps: int = 1, **options: object) -> torch.Tensor:
    place = run / "images" / "plain"
    return draw(open_run(run), SHOTS, place, steps=steps, guidance=2.0, **options)  # type: ignore[arg-type]


def test_what_is_drawn_is_noted_and_read_again(run: Path) -> None:
    first = drawn(run)
    noted = json.loads((run / "images" / "plain" / "drawn.json").read_text())
    assert noted.keys() == {"scheduler", "steps", "guidance", "resolution", "weights", "edit"}
    assert noted["scheduler"] == "PNDMScheduler"
    assert torch.equal(drawn(run), first)
    with pytest.raises(RunError, match=r"holds images of other steps \(1, not 2\); remove"):
        drawn(run, steps=2)
    model = open_run(run)
    with model.without_edit(), pytest.raises(RunError, match="another edit"):
        draw(model, SHOTS, run / "images" / "plain", steps=1, guidance=2.0)


def test_pictures_of_another_edit_or_base_are_refused(
    run: Path, sd1: Path, sd2: Path, tmp_path: Path
) -> None:
    drawn(run)
    kept = run / "images"
    again = tmp_path / "again"
    erasure.erase(str(sd1), "uce", ["dog"], kind="object", anchor="cat", out=again)
    shutil.copytree(kept, again / "images")
    with pytest.raises(RunError, match="another edit"):
        drawn(again)
    place = tmp_path / "un-erased" / "images" / "pocket"
    draw(load_model(str(sd1)), SHOTS, place, steps=1, guidance=2.0)
    other = load_model(str(sd2))
    other.use_scheduler("PNDMScheduler")
    with pytest.raises(RunError, match="another base model"):
        draw(other, SHOTS, place, steps=1, guidance=2.0)


def test_pictures_that_nothing_is_noted_of_are_refused(run: Path) -> None:
    """They may be another edit's, and newer than this one's: no date tells."""
    drawn(run)
    place = run / "images" / "plain"
    claim = (place / "drawn.json").read_text()
    part = {key: value for key, value in json.loads(claim).items() if key != "edit"}
    for text in (None, "{}", json.dumps(part)):
        (place / "drawn.json").unlink()
        if text is not None:
            (place / "drawn.json").write_text(text)
        with pytest.raises(RunError, match=r"holds images and no full drawn\.json .*; remove"):
            drawn(run)
        (place / "drawn.json").write_text(claim)
    drawn(run)
    (place / "drawn.json").write_text("{")
    with pytest.raises(RunError, match=r"drawn\.json is not readable"):
        drawn(run)
    shutil.rmtree(place)
    drawn(run)


@pytest.mark.parametrize("gone", [(0,), (1,), (0, 2)])
def test_what_is_left_is_drawn_as_it_was_beside_the_others(run: Path, gone: tuple[int]) -> None:
    first = drawn(run)
    times = {}
    for place, shot in enumerate(SHOTS):
        file = run / "images" / "plain" / shot.file
        times[place] = file.stat().st_mtime_ns
        if place in gone:
            file.unlink()
    assert torch.equal(drawn(run), first)
    for place, shot in enumerate(SHOTS):
        file = run / "images" / "plain" / shot.file
        assert (file.stat().st_mtime_ns == times[place]) == (place not in gone)
        assert torch.equal(read_image(file), first[place])
