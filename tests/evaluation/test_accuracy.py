import json
from dataclasses import asdict

import pytest
import torch

from erasure.errors import SettingError
from evaluation.metrics.accuracy import Judged, Target, accuracy_scores
from evaluation.score import Score, interval, mean, mean_of_rates, rate, wilson


def judged() -> Judged:
    """Two objects x two styles x two images; object 0 is erased.

    Of its four images, three are seen as object 1.
    """
    asked_objects = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    asked_styles = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
    seen_objects = torch.tensor([1, 1, 1, 0, 1, 1, 0, 1])
    seen_styles = torch.tensor([0, 1, 1, 1, 0, 0, 1, 0])
    return Judged(asked_objects, asked_styles, seen_objects, seen_styles)


def test_an_object_target() -> None:
    scores, per = accuracy_scores(judged(), [Target("a", is_style=False, label=0)])
    assert {k: s.value for k, s in scores.items()} == {
        "UA": 0.75,
        "IRA": 0.75,
        "CRA": 0.75,
        "CRA_target": 0.75,
    }
    assert {k: s.n for k, s in scores.items()} == {"UA": 4, "IRA": 4, "CRA": 4, "CRA_target": 4}
    assert per["a"]["UA"].value == 0.75


def test_a_style_target_swaps_the_domains() -> None:
    scores, _ = accuracy_scores(judged(), [Target("s", is_style=True, label=1)])
    # its own images: 2, 3, 6, 7; seen styles 1, 1, 1, 0; seen objects right in the last alone
    assert scores["UA"].value == 0.25
    assert scores["CRA_target"].value == 0.5
    assert scores["IRA"].value == 0.75  # styles of images 0, 1, 4, 5
    assert scores["CRA"].value == 0.5  # objects of the same


def test_contexts_tell_a_target_apart() -> None:
    """Object 0 beside style 0 was trained on: both its images are seen as another."""
    target = Target("a", is_style=False, label=0, contexts=(0,))
    scores, per = accuracy_scores(judged(), [target])
    found = {key: (scores[key].value, scores[key].n) for key in ("UA", "UA_in", "UA_out")}
    assert found == {"UA": (0.75, 4), "UA_in": (1.0, 2), "UA_out": (0.5, 2)}
    assert per["a"]["UA_out"].value == 0.5
    both = [target, Target("s", is_style=True, label=1)]
    assert accuracy_scores(judged(), both)[0]["UA_out"].value == 0.5  # the other has none


def test_several_targets_leave_together() -> None:
    targets = [Target("a", is_style=False, label=0), Target("s", is_style=True, label=1)]
    scores, per = accuracy_scores(judged(), targets)
    assert scores["IRA"].n == 2  # images 4 and 5 alone hold neither
    assert scores["UA"].value == (0.75 + 0.25) / 2
    assert set(per) == {"a", "s"}
    assert "UA_own" not in scores  # one target of each domain
    # images 2 and 3 ask for both: nothing about them was to be kept
    assert {name: own["CRA_target"].n for name, own in per.items()} == {"a": 2, "s": 2}
    assert {name: own["CRA_target"].value for name, own in per.items()} == {"a": 0.5, "s": 0.5}


def test_without_targets_there_is_no_ua() -> None:
    scores, per = accuracy_scores(judged(), [])
    assert set(scores) == {"IRA", "CRA"}
    assert scores["IRA"].n == 8
    assert per == {}


def test_standard_errors() -> None:
    assert rate(torch.tensor([True, True, True, False])).stderr == (0.75 * 0.25 / 4) ** 0.5
    both = mean_of_rates([rate(torch.tensor([True, False])), rate(torch.tensor([True, True]))])
    assert (both.value, both.n) == (0.75, 4)
    assert abs(both.stderr - (0.25 / 2) ** 0.5 / 2) < 1e-9


def test_an_erased_concept_drawn_under_another_erased_prompt_is_no_success() -> None:
    """Asked for object 0 it draws 1, asked for 1 it draws 2: erased are 0 and 1, then 1 and 2."""
    asked = torch.tensor([0, 0, 1, 1, 2, 2])
    seen = torch.tensor([1, 1, 2, 2, 2, 2])
    style = torch.zeros_like(asked)
    targets = [Target(name, is_style=False, label=label) for name, label in (("a", 0), ("b", 1))]
    scores, per = accuracy_scores(Judged(asked, style, seen, style), targets)
    assert {name: own["UA"].value for name, own in per.items()} == {"a": 0.0, "b": 1.0}
    assert {name: own["UA_own"].value for name, own in per.items()} == {"a": 1.0, "b": 1.0}
    assert (scores["UA"].value, scores["UA_own"].value) == (0.5, 1.0)
    # a style of the same number is another domain's label
    styled = Target("s", is_style=True, label=1)
    scores, _ = accuracy_scores(Judged(asked, style + 1, seen, style), [targets[0], styled])
    assert scores["UA"].value == 1.0


def shared_images() -> tuple[Judged, list[Target]]:
    """6 x 6 pairs, 25 times; objects are seen well, styles badly."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.cartesian_prod(torch.arange(6), torch.arange(6), torch.arange(25))
    objects, styles = grid[:, 0], grid[:, 1]
    wrong = [torch.rand(len(grid), generator=generator) < chance for chance in (0.1, 0.4)]
    judged = Judged(
        objects, styles, torch.where(wrong[0], 5, objects), torch.where(wrong[1], 5, styles)
    )
    return judged, [Target(f"o{n}", is_style=False, label=n) for n in range(3)]


def test_targets_that_share_images_share_their_error() -> None:
    judged, targets = shared_images()
    _, one = accuracy_scores(judged, targets[:1]), accuracy_scores(judged, targets)[0]
    p, n = one["IRA"].value, one["IRA"].n
    assert n == 3 * 6 * 25
    assert one["IRA"].stderr == pytest.approx((p * (1 - p) / n) ** 0.5)
    # images of one target are no other's
    p, n = one["CRA_target"].value, one["CRA_target"].n
    assert n == 3 * 6 * 25
    assert one["CRA_target"].stderr == pytest.approx((p * (1 - p) / n) ** 0.5, rel=0.01)


def test_the_error_of_an_object_and_a_style_by_their_images() -> None:
    """Mean per image, then the spread over images; images that ask for both count in both."""
    judged, targets = shared_images()
    both = [targets[0], Target("s", is_style=True, label=1)]
    scores, _ = accuracy_scores(judged, both)
    object_hits = (judged.seen_objects == judged.asked_objects).double()
    style_hits = (judged.seen_styles == judged.asked_styles).double()
    kept = (judged.asked_objects != 0) & (judged.asked_styles != 1)
    per_image = (object_hits + style_hits)[kept] / 2
    expected = float(per_image.std(correction=0)) / len(per_image) ** 0.5
    assert scores["IRA"].stderr == pytest.approx(expected)
    assert scores["CRA"].stderr == pytest.approx(expected)
    shown = (judged.seen_objects != 0).double(), (judged.seen_styles != 1).double()
    where = judged.asked_objects == 0, judged.asked_styles == 1
    parts = [
        torch.where(w, hit - hit[w].mean(), 0) / w.sum()
        for hit, w in zip(shown, where, strict=True)
    ]
    by_hand = float(((parts[0] + parts[1]) / 2).square().sum() ** 0.5)
    assert scores["UA"].stderr == pytest.approx(by_hand)
    assert scores["UA"].n == int((where[0] | where[1]).sum())


def test_scores_without_images_are_left_out() -> None:
    asked = torch.tensor([0, 0, 1, 1])
    targets = [Target(name, is_style=False, label=label) for name, label in (("a", 0), ("b", 1))]
    scores, per = accuracy_scores(Judged(asked, asked * 0, asked, asked * 0), targets)
    assert set(scores) == {"UA", "UA_own", "CRA_target"}
    assert set(per["a"]) == {"UA", "UA_own", "CRA_target"}
    json.dumps([asdict(score) for score in scores.values()], allow_nan=False)
    scores, per = accuracy_scores(
        Judged(asked, asked * 0, asked, asked * 0), [Target("c", is_style=False, label=7)]
    )
    assert set(scores) == {"IRA", "CRA"}
    assert per == {"c": {}}


def test_numbers_of_no_image() -> None:
    for make in (lambda: rate(torch.zeros(0, dtype=torch.bool)), lambda: mean(torch.zeros(0))):
        with pytest.raises(SettingError, match="at least one image; got none"):
            make()
    assert wilson(0.5, 0) == interval(0.5, 0.0, 0, is_rate=True) == (0.0, 1.0)
    assert mean_of_rates([Score(1.0, 0.0, 1)]).stderr == 0.0
