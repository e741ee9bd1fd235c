from dataclasses import dataclass, fields
from typing import Literal, get_type_hints

import pytest

from erasure.config import check, nearest, resolve, setting
from erasure.errors import SettingError
from erasure.registry import ATTACKS, METHODS, Kind


@dataclass(frozen=True)
class Toy:
    steps: int = setting(100, quick=5, help="steps", at_least=1)
    rate: float = setting(0.1, help="rate", above=0, at_most=1)
    mode: Literal["slow", "fast"] = setting("slow", help="mode")
    flag: bool = setting(False, help="flag")
    weight: float = setting(1.0, help="without a bound of its own")

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "Toy.steps must be at least 1; got 0."),
        ({"steps": 1.5}, "Toy.steps must be int; got 1.5."),
        ({"steps": True}, "Toy.steps must be int; got True."),
        ({"rate": 0.0}, "Toy.rate must be above 0; got 0.0."),
        ({"rate": 2.0}, "Toy.rate must be at most 1; got 2.0."),
        ({"rate": float("nan")}, "Toy.rate must be a number; got nan."),
        ({"weight": 1e38}, "Toy.weight must be at most 1e+06; got 1e+38."),
        ({"weight": -1e38}, "Toy.weight must be at least -1e+06; got -1e+38."),
        ({"weight": float("inf")}, "Toy.weight must be at most 1e+06; got inf."),
        ({"steps": 10**12}, "Toy.steps must be at most 1e+09; got 1000000000000."),
        ({"mode": "medium"}, "Toy.mode must be one of slow, fast; got 'medium'."),
        ({"flag": 1}, "Toy.flag must be bool; got 1."),
    ],
)
def test_bad_values_are_named(values: dict, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        Toy(**values)
    assert str(caught.value) == message


def every_settings_class() -> list[type]:
    kinds: tuple[Kind, ...] = ("diffusion", "classifier")
    methods = [METHODS.get(kind, name) for kind in kinds for name in METHODS.names(kind)]
    return [*methods, *map(ATTACKS.get, ATTACKS.names())]


@pytest.mark.parametrize("kind", every_settings_class())
def test_no_number_overflows_a_step(kind: type) -> None:
    hints = get_type_hints(kind)
    for item in fields(kind):
        if hints[item.name] in (float, int):
            with pytest.raises(SettingError, match=rf"\.{item.name} must be at most"):
                kind(**{item.name: hints[item.name](1e38)})


def test_integers_are_fine_where_a_float_is_asked() -> None:
    assert Toy(rate=1).rate == 1


def test_precedence_and_sources() -> None:
    presets = {"steps": 7, "rate": 0.5, "mode": "fast"}
    settings, sources = resolve(Toy, given={"rate": 0.9}, quick=True, presets=presets)
    assert settings == Toy(steps=5, rate=0.9, mode="fast")
    assert sources == {
        "steps": "quick",
        "rate": "command line",
        "mode": "model preset",
        "flag": "default",
        "weight": "default",
    }
    settings, _ = resolve(Toy, given={}, quick=False, presets=presets)
    assert settings.steps == 7


def test_unknown_setting_lists_near_names() -> None:
    with pytest.raises(SettingError, match=r"Toy has no setting 'stps'. Did you mean steps\?"):
        resolve(Toy, given={"stps": 3}, quick=False, presets={})


def test_nearest_lists_all_when_none_is_near() -> None:
    assert nearest("zzz", ["cat", "dog"]) == "Known: cat, dog."
