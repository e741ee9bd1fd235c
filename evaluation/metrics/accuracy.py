"""UA, IRA, CRA and CRA_target from judged labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from evaluation.score import Score, mean_of_rates, rate


@dataclass(frozen=True)
class Judged:
    """What was asked and what a judge saw, as label indices, one entry per image."""

    asked_objects: Int[Tensor, " n"]
    asked_styles: Int[Tensor, " n"]
    seen_objects: Int[Tensor, " n"]
    seen_styles: Int[Tensor, " n"]


@dataclass(frozen=True)
class Target:
    """An erased label."""

    name: str
    is_style: bool
    label: int


RateOf = Callable[[Bool[Tensor, " n"], Bool[Tensor, " n"]], Score]


def plain_rate(hits: Bool[Tensor, " n"], where: Bool[Tensor, " n"]) -> Score:
    """The rate of the images picked by `where`, each counting the same."""
    return rate(hits[where])


def accuracy_scores(
    judged: Judged, targets: list[Target], *, target_in_cra: bool = False,
    rate_of: RateOf = plain_rate,
) -> tuple[dict[str, Score], dict[str, dict[str, Score]]]:  # fmt: skip
    """(top-level scores, scores per target), as fractions.

    UA: 1 - accuracy of the target on the images that ask for it. IRA: accuracy of the target's
    domain, CRA: of the other domain, both on images without any target. CRA_target: the other
    domain's accuracy on the target's images. With several targets the top-level figures are means
    over them. Without targets IRA is objects, CRA styles.

    `target_in_cra` takes CRA over all images. `rate_of` makes a score from hits and the images that
    count: another one where they do not all weigh the same (evaluation/metrics/subset.py).
    """
    object_hits = judged.seen_objects == judged.asked_objects
    style_hits = judged.seen_styles == judged.asked_styles
    everything = torch.ones_like(object_hits)
    if not targets:
        return {"IRA": rate_of(object_hits, everything), "CRA": rate_of(style_hits, everything)}, {}
    has = {
        t.name: (judged.asked_styles if t.is_style else judged.asked_objects) == t.label
        for t in targets
    }  # images that ask for each target
    kept = ~torch.stack(list(has.values())).any(0)
    crossed = everything if target_in_cra else kept
    per_target = {}
    for target in targets:
        own, other = (style_hits, object_hits) if target.is_style else (object_hits, style_hits)
        here = has[target.name]
        per_target[target.name] = {
            "UA": rate_of(~own, here),
            "IRA": rate_of(own, kept),
            "CRA": rate_of(other, crossed),
            "CRA_target": rate_of(other, here),
        }
    top = {
        key: mean_of_rates([scores[key] for scores in per_target.values()])
        for key in ("UA", "IRA", "CRA", "CRA_target")
    }
    # the same images for every target
    top |= {
        key: replace(top[key], n=int(where.sum()))
        for key, where in (("IRA", kept), ("CRA", crossed))
    }
    return top, {name: {k: s[k] for k in ("UA", "CRA_target")} for name, s in per_target.items()}
