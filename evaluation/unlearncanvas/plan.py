"""Which of UnlearnCanvas' images are drawn and judged: all, or a part drawn at random."""

from collections.abc import Sequence
from dataclasses import dataclass

from erasure.config import nearest
from erasure.errors import SettingError
from erasure_datasets.concept import plain_name
from erasure_datasets.unlearncanvas import OBJECTS, STYLES, THEMES, caption
from evaluation.drawing.generate import Shot
from evaluation.metrics.accuracy import Judged, RateOf, Target, plain_rate
from evaluation.metrics.subset import Axis, draw_labels, parse_subset, subset_rate
from evaluation.unlearncanvas.noise import PLACES

SEEDS = (188, 288, 588, 688, 888)
Key = tuple[int, int]  # seed, and the prompt's place: theme * 20 + object


@dataclass(frozen=True)
class Plan:
    """The images of an answer set, or of a part whose themes and objects were drawn at random."""

    keys: list[Key]
    subset: str | None
    drawn: tuple[tuple[int, ...], tuple[int, ...]]  # themes, objects, without the targets
    among: tuple[int, int]  # out of how many
    seeds: float  # the share of the benchmark's seeds

    def without(self, targets: Sequence[Target]) -> list[Key]:
        """Those whose prompt names none of the targets."""
        themes = {target.label for target in targets if target.is_style}
        objects = {target.label for target in targets if not target.is_style}
        return [
            (seed, place)
            for seed, place in self.keys
            if place // len(OBJECTS) not in themes and place % len(OBJECTS) not in objects
        ]

    def rate_of(self, judged: Judged) -> RateOf:
        """How a rate of these images is made, as accuracy_scores asks for it."""
        if self.subset is None:
            return plain_rate
        asked = (judged.asked_styles, judged.asked_objects)
        axes = [Axis(*parts) for parts in zip(asked, self.drawn, self.among, strict=True)]
        return lambda hits, where: subset_rate(hits, where, axes, self.seeds)


def find_targets(names: Sequence[str]) -> list[Target]:
    """Styles and objects by name, ignoring case, `_`, `-` and spaces.

    SettingError for a name that the benchmark's judges do not know.
    """
    known = {plain_name(name): name for name in (*STYLES, *OBJECTS)}
    targets = []
    for name in names:
        found = known.get(plain_name(name))
        if found is None:
            raise SettingError(
                f"no judge of unlearncanvas knows the concept {name!r}. "
                f"{nearest(name, list(known.values()))}"
            )
        is_style = found in STYLES
        targets.append(Target(found, is_style, (THEMES if is_style else OBJECTS).index(found)))
    if len(set(targets)) < len(targets):
        raise SettingError(f"concept names must differ; got {', '.join(names)}.")
    return targets


def plan(
    seeds: Sequence[int], subset: str | None, targets: Sequence[Target], *,
    seed_images: bool = False,
) -> Plan:  # fmt: skip
    """Which images are judged, in the published order: by seed, theme and object.

    A `subset` "10x5" has the targets and, drawn at random, ten other themes and five other objects;
    they are the same ones for the same targets. SettingError for a bad seed or subset.
    """
    for seed in seeds:
        if seed not in SEEDS:
            raise SettingError(f"seeds must be among {', '.join(map(str, SEEDS))}; got {seed}.")
    if len(set(seeds)) < len(seeds):
        raise SettingError(f"seeds must differ; got {', '.join(map(str, seeds))}.")
    themes = {THEMES.index(theme) for theme in (THEMES if seed_images else STYLES)}
    erased = tuple({t.label for t in targets if t.is_style == style} for style in (True, False))
    others = (sorted(themes - erased[0]), sorted(set(range(len(OBJECTS))) - erased[1]))
    drawn = tuple(others[0]), tuple(others[1])
    if subset is not None:
        styles, objects = parse_subset(subset)
        drawn = (
            draw_labels(others[0], styles, what="styles"),
            draw_labels(others[1], objects, what="objects"),
        )
    keys = [
        (seed, theme * len(OBJECTS) + name)
        for seed in seeds
        for theme in sorted(erased[0].union(drawn[0]))
        for name in sorted(erased[1].union(drawn[1]))
    ]
    share = len(seeds) / len(SEEDS)
    return Plan(keys, subset, drawn, (len(others[0]), len(others[1])), share)


def shots(keys: Sequence[Key], *, photo: str = "Photo") -> list[Shot]:
    """What to draw, by the file names that every tool gives it."""
    made = []
    for seed, place in keys:
        theme, name = THEMES[place // len(OBJECTS)], OBJECTS[place % len(OBJECTS)]
        file = f"{theme}_{name}_seed{seed}.jpg"
        made.append(Shot(caption(name, theme, photo), seed * PLACES + place, file))
    return made
