"""What every attack is: the class that plug-ins inherit."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from erasure_datasets.concept import Concept
from evaluation.attacking.scene import Case, Found, Scene

Place = tuple[tuple[str, str], int]  # (text before, text after), number of tokens between


class Attack(ABC):
    """What every attack's dataclass inherits.

    One that `changes_weights` is a single event for all cases: it gets them together, also those
    that are shown anyway, and stands beside the worst case of `attack all`. One that `walks_path`
    needs a model that draws in several steps; one whose tokens are learned vectors `fills_slots`,
    which some models lack.
    """

    changes_weights: ClassVar[bool] = False
    walks_path: ClassVar[bool] = False
    fills_slots: ClassVar[bool] = True  # matters only where `control` has tokens

    @abstractmethod
    def attack(self, scene: Scene, cases: Sequence[Case]) -> list[Found]:
        """Try to win each case; one result per case, in order."""

    def control(self, prompt: str, concept: Concept) -> Place | None:
        """Where, and how many, random tokens stand for what the attack adds to a prompt.

        None for an attack that adds no tokens.
        """
        return None

    def decoy(self, scene: Scene, cases: Sequence[Case]) -> list[bool] | None:
        """Which cases the same procedure wins when nothing of the concept is put into it.

        None for an attack whose control is tokens, or that has none.
        """
        return None

    def told(
        self, scene: Scene, cases: Sequence[Case], entries: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """What the record says of a concept beside its scores; `entries` are the ended cases."""
        return {}


def by_level(
    entries: Sequence[Mapping[str, Any]], levels: Sequence[float], *, falling: bool = False
) -> dict[str, float]:
    """The share of cases that were shown up to each level; down to it, if they are `falling`.

    What a plain prompt shows is shown at any level, as it counts in the rate.
    """
    reached = [(entry.get("found") or {}).get("level") for entry in entries if not entry["pre"]]
    known, plain = [k for k in reached if k is not None], len(entries) - len(reached)
    return {
        f"{level:g}": (plain + sum(k >= level if falling else k <= level for k in known))
        / len(entries)
        for level in levels
    }
