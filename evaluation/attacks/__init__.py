"""Attacks that try to bring an erased concept back, one file each, found by the file's stem."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from erasure.config import module_names, nearest
from erasure.errors import SettingError
from erasure_datasets.concept import Concept
from evaluation.attacking.scene import Case, Found, Scene

Place = tuple[tuple[str, str], int]  # (text before, text after), number of tokens between


class Attack(Protocol):
    """What every attack's dataclass offers; its module names the class as `ATTACK`.

    `control` says where, and how many, random tokens stand for what the attack adds to a prompt.
    `attack` tries to win each case; one result per case, in order.
    """

    def control(self, prompt: str, concept: Concept) -> Place | None: ...

    def attack(self, scene: Scene, cases: Sequence[Case]) -> list[Found]: ...


def attack_names() -> list[str]:
    """Every attack's name, found without importing any."""
    return module_names(Path(__file__).parent)


def find_attack(name: str) -> type[Attack]:
    """Import one attack's class; SettingError lists near names if there is none."""
    word = name.replace("_", "-")
    if word not in attack_names():
        raise SettingError(
            f"there is no attack {name!r}. {nearest(word, [*attack_names(), 'all'])}"
        )
    return importlib.import_module(f"evaluation.attacks.{word.replace('-', '_')}").ATTACK
