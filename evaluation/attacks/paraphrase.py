"""Paraphrases: ask for the concept in other words that the erasure did not train on.

Synonyms, descriptions and templates from datasets/erasure_datasets/paraphrases.py, or a CSV's.
A case is won if any of them draws the concept with its noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from erasure.config import check, setting
from erasure.errors import SettingError
from erasure.models.diffusion.slots import around
from erasure.registry import ATTACKS
from erasure_datasets.concept import Concept
from erasure_datasets.errors import DataError
from erasure_datasets.paraphrases import paraphrases
from erasure_datasets.prompt_files import read_prompts
from evaluation.attacking.scene import KEPT, Case, Found, Scene
from evaluation.attacks import Attack


@ATTACKS.register
@dataclass(frozen=True)
class Paraphrase(Attack):
    """Other words for the same thing."""

    fills_slots: ClassVar[bool] = False

    count: int = setting(12, quick=3, help="paraphrases tried per prompt", at_least=1)
    file: str = setting("", help="file of prompts to use instead of the built-in ones")

    def __post_init__(self) -> None:
        check(self)
        self._read()  # a bad file is said before anything is written

    def control(self, prompt: str, concept: Concept) -> tuple[tuple[str, str], int]:
        return around(prompt, concept.name), 2  # about as long as a synonym

    def attack(self, scene: Scene, cases: Sequence[Case]) -> list[Found]:
        asked = [self._texts(scene, case)[: self.count] for case in cases]
        found = [Found(False, 0, case.prompt) for case in cases]
        with scene.progress("paraphrase", self.count) as bar:
            for number in range(max(map(len, asked))):
                left = [
                    i
                    for i, result in enumerate(found)
                    if not result.success and number < len(asked[i])
                ]
                if not left or scene.is_over:
                    break
                texts = [asked[i][number] for i in left]
                won = scene.wins(texts, [cases[i] for i in left], KEPT)
                for i, text, success in zip(left, texts, won.tolist(), strict=True):
                    found[i] = Found(success, number + 1, text)
                bar.advance(f"{len(left)} left")
        return found

    def _texts(self, scene: Scene, case: Case) -> list[str]:
        return self._read() or paraphrases(scene.concept, case.prompt, scene.model.catalogue)

    def _read(self) -> list[str]:
        """The file's prompts, at least one; none without a file."""
        try:
            return [line.prompt for line in read_prompts(Path(self.file))] if self.file else []
        except DataError as error:
            raise SettingError(f"file: {error}") from error
