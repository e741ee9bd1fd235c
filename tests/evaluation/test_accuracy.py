import torch

from evaluation.metrics.accuracy import Judged, Target, accuracy_scores
from evaluation.score import mean_of_rates, rate


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


def test_several_targets_leave_together() -> None:
    targets = [Target("a", is_style=False, label=0), Target("s", is_style=True, label=1)]
    scores, per = accuracy_scores(judged(), targets)
    assert scores["IRA"].n == 2  # images 4 and 5 alone hold neither
    assert scores["UA"].value == (0.75 + 0.25) / 2
    assert set(per) == {"a", "s"}


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
