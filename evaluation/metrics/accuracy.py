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

    @property
    def asked(self) -> dict[bool, Int[Tensor, " n"]]:
        """By `is_style`, as `seen` and `hits`."""
        return {False: self.asked_objects, True: self.asked_styles}

    @property
    def seen(self) -> dict[bool, Int[Tensor, " n"]]:
        return {False: self.seen_objects, True: self.seen_styles}

    @property
    def hits(self) -> dict[bool, Bool[Tensor, " n"]]:
        return {kind: self.seen[kind] == self.asked[kind] for kind in (False, True)}


@dataclass(frozen=True)
class Target:
    """An erased label; `contexts` are the other domain's labels beside which it was trained on.

    None where that is not known, or it was trained on beside all of them.
    """

    name: str
    is_style: bool
    label: int
    contexts: tuple[int, ...] | None = None


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
    several targets: those that do not show the target itself, which is 1 - its accuracy. UA_in and
    UA_out: UA on the images that ask for one of its contexts beside it, and on the others. IRA:
    accuracy of the target's domain, CRA: of the other domain, both on images without any target.
    CRA_target: the other domain's accuracy on the target's images, without those that ask for an
    erased label there too. With several targets the top-level figures are means over them, with the
    standard error of the images that they share. Without targets IRA is objects, CRA styles. A
    score that no image counts for is left out.

    `target_in_cra` takes CRA over all images. `rate_of` makes a score from hits and the images that
    count: another one where they do not all weigh the same (evaluation/metrics/subset.py).
    """
    if not targets:
        everything = torch.ones_like(judged.asked_objects, dtype=torch.bool)
        hits = judged.hits
        return {"IRA": rate_of(hits[False], everything), "CRA": rate_of(hits[True], everything)}, {}
    found = _cases_of(judged, targets, target_in_cra=target_in_cra)
    top = {}
    for key in dict.fromkeys(key for own in found.values() for key in own):
        if cases := [own[key] for own in found.values() if key in own and own[key][1].any()]:
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


def _cases_of(
    judged: Judged, targets: list[Target], *, target_in_cra: bool
) -> dict[str, dict[str, Cases]]:
    """Hits and the images that count, of each score of each target; kinds are `is_style`."""
    hits, asked, seen = judged.hits, judged.asked, judged.seen
    erased = {
        kind: torch.tensor([t.label for t in targets if t.is_style == kind], dtype=torch.long)
        for kind in (False, True)
    }
    gone = {kind: torch.isin(asked[kind], labels) for kind, labels in erased.items()}
    kept = ~(gone[False] | gone[True])
    crossed = torch.ones_like(kept) if target_in_cra else kept
    found: dict[str, dict[str, Cases]] = {}
    for target in targets:
        own, other = target.is_style, not target.is_style
        here = asked[own] == target.label
        forgotten = ~torch.isin(seen[own], erased[own])
        found[target.name] = {"UA": (forgotten, here)}
        if target.contexts is not None:
            inside = torch.isin(asked[other], torch.tensor(target.contexts, dtype=torch.long))
            found[target.name] |= {
                "UA_in": (forgotten, here & inside),
                "UA_out": (forgotten, here & ~inside),
            }
        if max(map(len, erased.values())) > 1:
            found[target.name]["UA_own"] = (~hits[own], here)
        found[target.name] |= {
            "IRA": (hits[own], kept),
            "CRA": (hits[other], crossed),
            "CRA_target": (hits[other], here & ~gone[other]),
        }
    return found


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
