"""How a short attack ended: its outcomes, the pictures they were judged by, and both in words."""

from dataclasses import dataclass

from PIL import Image

from erasure.registry import ATTACKS
from evaluation.attacking.attack import Attack
from evaluation.attacking.attacking import Outcome


@dataclass(frozen=True)
class Fight:
    """A short attack's end: the outcomes of the cases it got to, with pictures and labels.

    A picture is the one that the outcome was judged by: the plain prompt's where that drew the
    concept, else the attack's; None if an attack keeps none. The time ended before `untried` cases.
    """

    outcomes: list[Outcome]
    images: list[Image.Image | None]
    seen: list[str]
    untried: int

    def pictures(self, attack: str) -> list[tuple[Image.Image, str]]:
        """Those that there are, each with what drew it and what the judges say."""
        return [
            (image, " · ".join(filter(None, (_by(outcome, attack), seen))))
            for outcome, image, seen in zip(self.outcomes, self.images, self.seen, strict=True)
            if image is not None
        ]

    def told(self, attack: str) -> str:
        """The figures in a sentence, with the control that the attack has."""
        pre, won, control, tries = (
            sum(getattr(outcome, key) for outcome in self.outcomes)
            for key in ("pre", "success", "control", "control_tries")
        )
        kind, beside = ATTACKS.get(attack), ""
        if kind.control is not Attack.control:
            beside = f", random tokens in {control}, as many tries as the attack had in {tries}"
        elif kind.decoy is not Attack.decoy:
            beside = f", its control in {control}"
        unkept = self.images.count(None)
        return (
            f"**{attack}** brought it back in **{won} of {len(self.outcomes)}** pictures; "
            f"a plain prompt in {pre}{beside}."
            + (f" The time ended before {self.untried} more." if self.untried else "")
            + (f" It kept no picture of {unkept}." if unkept else "")
        )


def _by(outcome: Outcome, attack: str) -> str:
    """By what a picture shows the concept, or does not."""
    who, text = "a plain prompt", outcome.case.prompt
    if outcome.found:
        who, text = attack, outcome.found.prompt
    asked = f"“{text}”" if text else "the empty prompt"
    return f"{'drawn' if outcome.success else 'not drawn'} by {who}, {asked}"
