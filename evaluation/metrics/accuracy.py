"""UA, IRA, CRA and CRA_target from judged labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

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


Cases = tuple[Bool[Tensor, " n"], Bool[Tensor, " n"]]  # hits, and the images that count
RateOf = Callable[[Bool[Tensor, " n"], Bool[Tensor, " n"]], Score]


def plain_rate(hits: Bool[Tensor, " n"], where: Bool[Tensor, " n"]) -> Score:
    """The rate of the images picked by `where`, each counting the same."""
    return rate(hits[where])


def accuracy_scores(
    judged: Judged, targets: list[Target], *, target_in_cra: bool = False,
    rate_of: RateOf = plain_rate,
) -> tuple[dict[str, Score], dict[str, dict[str, Score]]]:  # fmt: skip
    """(top-level scores, scores per target), as fractions.

    UA: of the images that ask for the target, those that show none of the erased labels of its
    domain: a cat drawn as a dog is no success where both are erased. UA_own, where a domain has
    several targets: those that do not show the target itself, which is 1 - its accuracy. IRA:
    accuracy of the target's domain, CRA: of the other domain, both on images without any target.
    CRA_target: the other domain's accuracy on the target's images, without those that ask for an
    erased label there too. With several targets the top-level figures are means over them, with the
    standard error of the images that they share. Without targets IRA is objects, CRA styles. A
    score that no image counts for is left out.

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
    nowhere = torch.zeros_like(everything)
    gone = {
        kind: torch.stack([nowhere, *(has[t.name] for t in targets if t.is_style == kind)]).any(0)
        for kind in (False, True)
    }  # images that ask for an erased object, or for an erased style
    kept = ~(gone[False] | gone[True])
    crossed = everything if target_in_cra else kept
    erased = {kind: [t.label for t in targets if t.is_style == kind] for kind in (False, True)}
    found: dict[str, dict[str, Cases]] = {}
    for target in targets:
        own, other = (style_hits, object_hits) if target.is_style else (object_hits, style_hits)
        seen, here = (
            judged.seen_styles if target.is_style else judged.seen_objects,
            has[target.name],
        )
        shown = torch.isin(seen, torch.tensor(erased[target.is_style]))
        found[target.name] = {"UA": (~shown, here)}
        if max(map(len, erased.values())) > 1:
            found[target.name]["UA_own"] = (~own, here)
        found[target.name] |= {
            "IRA": (own, kept),
            "CRA": (other, crossed),
            "CRA_target": (other, here & ~gone[not target.is_style]),
        }
    top = {}
    for key in next(iter(found.values())):
        if cases := [own[key] for own in found.values() if own[key][1].any()]:
            top[key] = _mean(cases, rate_of)
    per_target = {
        name: {
            key: rate_of(*own[key])
            for key in own
            if key not in ("IRA", "CRA") and own[key][1].any()
        }
        for name, own in found.items()
    }
    return top, per_target


def _mean(cases: list[Cases], rate_of: RateOf) -> Score:
    """The mean of the rates of several (hits, images that count), which may share images."""
    scores = [rate_of(hits, where) for hits, where in cases]
    count = int(torch.stack([where for _, where in cases]).any(0).sum())
    return replace(mean_of_rates(scores, _correlation(cases)), n=count)


def _correlation(cases: list[Cases]) -> Float[Tensor, "k k"]:
    """Between the errors of several rates, by the images that they share.

    An image's part in a rate's error is (hit - rate) / n. Where all images of a rate are alike,
    none of which shows a correlation, the images that two rates share stand for it.
    """
    parts = []
    for hits, where in cases:
        part = torch.where(where, hits.double() - hits[where].double().mean(), 0.0)
        parts.append(part if part.any() else where.double())
    errors = F.normalize(torch.stack(parts), dim=1)
    return errors @ errors.T
