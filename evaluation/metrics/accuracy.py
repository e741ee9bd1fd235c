"""UA, IRA, CRA and CRA_target from judged labels."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
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


def accuracy_scores(
    judged: Judged, targets: list[Target]
) -> tuple[dict[str, Score], dict[str, dict[str, Score]]]:
    """(top-level scores, scores per target), as fractions.

    UA: 1 - accuracy of the target on the images that ask for it. IRA: accuracy of the target's
    domain, CRA: of the other domain, both on images without any target. CRA_target: the other
    domain's accuracy on the target's images. With several targets the top-level figures are means
    over them. Without targets IRA is objects, CRA styles.
    """
    object_hits = judged.seen_objects == judged.asked_objects
    style_hits = judged.seen_styles == judged.asked_styles
    if not targets:
        return {"IRA": rate(object_hits), "CRA": rate(style_hits)}, {}
    has = {
        t.name: (judged.asked_styles if t.is_style else judged.asked_objects) == t.label
        for t in targets
    }  # images that ask for each target
    kept = ~torch.stack(list(has.values())).any(0)
    per_target = {}
    for target in targets:
        own, other = (style_hits, object_hits) if target.is_style else (object_hits, style_hits)
        here = has[target.name]
        per_target[target.name] = {
            "UA": rate(~own[here]),
            "IRA": rate(own[kept]),
            "CRA": rate(other[kept]),
            "CRA_target": rate(other[here]),
        }
    top = {
        key: mean_of_rates([scores[key] for scores in per_target.values()])
        for key in ("UA", "CRA_target")
    }
    for key in ("IRA", "CRA"):
        scores = mean_of_rates([scores[key] for scores in per_target.values()])
        top[key] = Score(scores.value, scores.stderr, int(kept.sum()))
    ordered = {key: top[key] for key in ("UA", "IRA", "CRA", "CRA_target")}
    return ordered, {
        name: {k: s[k] for k in ("UA", "CRA_target")} for name, s in per_target.items()
    }
