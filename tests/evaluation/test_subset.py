"""A part's interval holds the whole's score, also where images fail by whole styles and objects."""

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from erasure.errors import SettingError
from erasure.models.built_in import POCKET
from evaluation.metrics.accuracy import Judged, Target, accuracy_scores
from evaluation.metrics.subset import Axis, draw_labels, parse_subset, subset_rate

SCRIPT = Path(__file__).parents[2] / "scripts" / "subset_coverage.py"
spec = importlib.util.spec_from_file_location("subset_coverage", SCRIPT)
assert spec is not None
assert spec.loader is not None
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
# 95 % less three standard errors of 300 parts, and a little for the smallest parts
ENOUGH = 0.95 - 3 * (0.95 * 0.05 / 300) ** 0.5 - 0.01


def crossed(styles: int, objects: int, seeds: int) -> tuple[torch.Tensor, ...]:
    """Style, object and seed of every image."""
    grid = torch.cartesian_prod(torch.arange(styles), torch.arange(objects), torch.arange(seeds))
    return grid[:, 0], grid[:, 1], grid[:, 2]


@pytest.mark.parametrize("file", ["baseline.json", "one-step/baseline.json"])
@pytest.mark.parametrize("subset", [(6, 6), (10, 5)])
def test_the_shipped_models_images(file: str, subset: tuple[int, int]) -> None:
    judged, seeds, targets = script.read_record(POCKET / file)
    found = script.coverage(judged, seeds, targets, subset=subset, repeats=300)
    for name, row in found.items():
        assert row["covered"] >= ENOUGH, (name, row)


@pytest.mark.parametrize("spoilt", [2, 5])
def test_neighbours_that_are_spoilt_as_a_whole(spoilt: int) -> None:
    """UnlearnCanvas' own grid: Van Gogh is gone, and with it several styles; objects are right.

    As if its images were independent, such a part is far too sure of itself.
    """
    asked_styles, asked_objects, seeds = crossed(51, 20, 5)
    seen = torch.where(torch.isin(asked_styles, torch.arange(spoilt + 1)), 50, asked_styles)
    judged = Judged(asked_objects, asked_styles, asked_objects, seen)
    targets = [Target("gone", is_style=True, label=0)]
    found = script.coverage(judged, seeds, targets, subset=(10, 5), repeats=300)
    assert found["IRA"]["covered"] >= ENOUGH, found
    assert found["IRA"]["plain"] < 0.8, found
    assert found["UA"]["covered"] == 1.0


def test_an_object_that_fails_by_style_and_by_seed() -> None:
    """UA varies from style to style: each has its own chance of failing."""
    torch.manual_seed(0)
    asked_styles, asked_objects, seeds = crossed(50, 20, 5)
    chance = torch.rand(50)[asked_styles]
    hidden = (asked_objects == 3) & (torch.rand(len(seeds)) < chance)
    judged = Judged(
        asked_objects, asked_styles, torch.where(hidden, 4, asked_objects), asked_styles
    )
    found = script.coverage(
        judged, seeds, [Target("gone", is_style=False, label=3)], subset=(10, 5), seeds_drawn=2,
        repeats=300,
    )  # fmt: skip
    assert found["UA"]["covered"] >= ENOUGH, found["UA"]


def test_the_whole_is_known_exactly() -> None:
    styles, objects, _ = crossed(3, 4, 1)
    hits = styles == 0
    axes = [Axis(styles, (0, 1, 2), 3), Axis(objects, (0, 1, 2, 3), 4)]
    found = subset_rate(hits, torch.ones_like(hits), axes, 1.0)
    assert (found.low, found.value, found.high, found.stderr) == (found.value,) * 3 + (0.0,)
    assert found.value == pytest.approx(1 / 3)


def test_targets_weigh_what_they_weigh_in_the_whole() -> None:
    """One target among 10 styles, two others drawn: the target counts a tenth, not a third."""
    styles = torch.tensor([0, 4, 7])
    axes = [Axis(styles, (4, 7), 9), Axis(torch.zeros(3, dtype=torch.long), (0,), 1)]
    found = subset_rate(styles == 0, torch.ones(3, dtype=torch.bool), axes, 1.0)
    assert found.value == pytest.approx(0.1)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.1 < found.high


def test_a_part_of_a_plan_goes_through_the_same_scores() -> None:
    styles, objects, _ = crossed(4, 4, 1)
    judged = Judged(objects, styles, objects, styles)
    axes = [Axis(styles, (1, 2, 3), 9), Axis(objects, (0, 1, 2, 3), 20)]
    scores, _ = accuracy_scores(
        judged, [Target("gone", is_style=True, label=0)],
        rate_of=lambda hits, where: subset_rate(hits, where, axes, 0.2),
    )  # fmt: skip
    assert {name: score.value for name, score in scores.items()} == {
        "UA": 0.0, "IRA": 1.0, "CRA": 1.0, "CRA_target": 1.0,
    }  # fmt: skip
    for score in scores.values():
        json.dumps(asdict(score), allow_nan=False)
        assert score.low is not None
        assert score.high is not None
        assert 0 <= score.low <= score.value <= score.high <= 1
    assert scores["IRA"].low is not None
    assert 0.2 < scores["IRA"].low < 0.9  # three of nine styles say little of the rest


def test_the_variance_is_the_docstrings() -> None:
    """A target that always shows, and two of eight styles whose rates are 1/4 and 1."""
    styles = torch.arange(3).repeat_interleave(4)
    hits = torch.tensor([1] * 4 + [1, 0, 0, 0] + [1] * 4) == 1
    axes = [Axis(styles, (1, 2), 8), Axis(torch.zeros(12, dtype=torch.long), (0,), 1)]
    found = subset_rate(hits, torch.ones_like(hits), axes, 1.0)
    rate = (4 + 4 * (1 + 4)) / (4 + 4 * 8)  # each drawn style stands for four
    spread = float(torch.tensor([0.25, 1.0, 0.5]).var())
    weight = 8 / 9  # the drawn styles', the target being one of nine
    between = (1 - 2 / 8) * weight**2 * spread / 3
    q = (rate * 2 + 0.5) / 3
    assert found.value == pytest.approx(rate)
    assert found.stderr**2 == pytest.approx(max(between, (1 - 2 / 8) * q * (1 - q) / 12))


def test_drawing() -> None:
    assert draw_labels(range(20), 5, what="objects") == draw_labels(range(20), 5, what="objects")
    assert len(set(draw_labels(range(20), 20, what="objects"))) == 20
    with pytest.raises(SettingError, match="subset must have 1 to 20 objects; got 21"):
        draw_labels(range(20), 21, what="objects")
    assert parse_subset("10x5") == (10, 5)
    for text in ("96", "10x", "x5", "-1x5", "10x5x2", "²x5", "", "0"):
        with pytest.raises(SettingError, match=rf"such as 10x5; got '{text}'"):
            parse_subset(text)
