from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

import pytest

from erasure.commandline.options import setting_options
from erasure.config import (
    EARLIER,
    FILE,
    Condition,
    Value,
    check,
    choices,
    nearest,
    needs,
    resolve,
    setting,
)
from erasure.errors import SettingError
from erasure.registry import ATTACKS, METHODS, PROTOCOLS, Kind
from erasure.training.hardware import Hardware
from erasure.training.one_cycle import OneCycle


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
    found = [PROTOCOLS.get(name).settings for name in PROTOCOLS.names()]
    protocols = [kind for kind in found if kind is not None]
    return [*methods, *map(ATTACKS.get, ATTACKS.names()), *protocols, OneCycle, Hardware]


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


@dataclass(frozen=True)
class Two:
    """A second stage, a choice, and two ways to keep."""

    renew: float = setting(0.0, help="share of noise", at_least=0)
    distil_steps: int = setting(600, quick=20, help="steps", when="renew")
    recipe: Literal["suite", "one-cycle", "long"] = setting("suite", help="how")
    epochs: int = setting(20, quick=1, help="passes", when="recipe=one-cycle|long")
    mask: str = setting("", help="a file")
    keep: float = setting(0.5, help="share", when="not mask")
    selects: str = setting("full,lora", help="with commas")
    rank: int = setting(4, help="of lora", when="selects=lora")
    weight: float = setting(1.0, help="of keeping")
    prompts: str = setting("", help="what to keep", when="weight or recipe=long")

    def __post_init__(self) -> None:
        check(self)


IDLE: list[tuple[dict[str, Value], str]] = [
    ({"distil_steps": 50}, "distil_steps has no effect without renew; got 50 with renew 0."),
    (
        {"epochs": 3, "recipe": "suite"},
        "epochs has no effect without recipe one-cycle or long; got 3 with recipe suite.",
    ),
    ({"keep": 0.25, "mask": "m"}, "keep has no effect with mask; got 0.25 with mask m."),
    (
        {"rank": 8, "selects": "full"},
        "rank has no effect without selects lora; got 8 with selects full.",
    ),
    (
        {"prompts": "a.csv", "weight": 0},
        "prompts has no effect without weight or recipe long; "
        "got a.csv with weight 0 and recipe suite.",
    ),
]


@pytest.mark.parametrize("origin", [None, FILE])
@pytest.mark.parametrize(("given", "message"), IDLE)
def test_what_another_setting_leaves_without_effect_is_refused(
    given: dict[str, Value], message: str, origin: Any
) -> None:
    origins = dict.fromkeys(given, origin) if origin else None
    with pytest.raises(SettingError) as caught:
        resolve(Two, given=given, quick=False, presets={}, origins=origins)
    assert str(caught.value) == f"Two.{message}"


@pytest.mark.parametrize(("given", "message"), IDLE)
def test_what_nobody_named_passes(given: dict[str, Value], message: str) -> None:
    resolve(Two, given={}, quick=False, presets=given)
    resolve(Two, given={}, quick=True, presets={"mask": "m"})
    resolve(Two, given=given, quick=False, presets={}, origins=dict.fromkeys(given, EARLIER))
    resolve(Two, given=given, quick=False, presets=None)  # of no model that is known
    name = message.partition(" ")[0]
    default = {item.name: item.default for item in fields(Two)}[name]
    resolve(Two, given=given | {name: default}, quick=False, presets={})


@pytest.mark.parametrize(
    ("given", "presets"),
    [
        ({"distil_steps": 50, "renew": 0.1}, {}),
        ({"distil_steps": 50}, {"renew": 0.1}),
        ({"epochs": 3, "recipe": "long"}, {}),
        ({"epochs": 3}, {"recipe": "one-cycle"}),
        ({"keep": 0.25}, {}),
        ({"rank": 8, "selects": "xattn, lora"}, {}),
        ({"prompts": "a.csv"}, {}),
        ({"prompts": "a.csv", "weight": 0, "recipe": "long"}, {}),
    ],
)
def test_what_has_an_effect_passes(given: dict[str, Value], presets: Mapping[str, Value]) -> None:
    settings, _ = resolve(Two, given=given, quick=False, presets=presets)
    assert {name: getattr(settings, name) for name in given} == given


def test_help_says_what_a_setting_needs() -> None:
    told = {item.name: needs(item) for item in fields(Two)}
    assert told["renew"] == ""
    assert told["distil_steps"] == "; only with renew"
    assert told["epochs"] == "; only with recipe one-cycle or long"
    assert told["keep"] == "; only without mask"
    (option,) = [o for o in setting_options(Two) if o.name == "epochs"]
    _, told_by = get_args(option.annotation)
    assert told_by.help == "passes; only with recipe one-cycle or long [default: 20]"


def test_a_misspelt_condition_is_told_whatever_is_given() -> None:
    @dataclass(frozen=True)
    class Wrong:
        renew: float = setting(0.0, help="share of noise")
        steps: int = setting(1, help="steps", when="renw")

    with pytest.raises(
        SettingError, match=r"^Wrong\.steps depends on 'renw'.*Did you mean renew\?"
    ):
        resolve(Wrong, given={}, quick=False, presets={})


@pytest.mark.parametrize("kind", every_settings_class())
def test_conditions_name_settings_and_words_that_there_are(kind: type) -> None:
    hints = get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}
    for item in known.values():
        condition = Condition.of(item)
        for switch in condition.switches if condition else ():
            assert switch.name in known.keys() - {item.name}
            if words := choices(hints[switch.name]):
                assert switch.words
                assert set(switch.words) < set(words)
            else:  # a number or a text has no list of words, and is on or off
                assert not switch.words or hints[switch.name] is str
    resolve(kind, given={}, quick=False, presets={})


OF_METHODS: list[tuple[Kind, str, dict[str, Value], str]] = [
    ("diffusion", "uproot", {"states": 8, "state_weight": 0}, "states has no effect without sta"),
    ("diffusion", "uproot", {"distil_steps": 50}, "distil_steps has no effect without renew"),
    ("diffusion", "adapt-unlearn", {"push": 2.0}, "push has no effect without target away"),
    ("diffusion", "bounded", {"beta": 2.0}, "beta has no effect without loss npo"),
    ("diffusion", "sfd", {"generator": "g", "distil_steps": 5}, "no effect with generator"),
    ("diffusion", "salun", {"mask": "m", "score": "wagle"}, "score has no effect with mask"),
    ("diffusion", "salun", {"mask": "m", "keep": 0.1}, "keep has no effect with mask"),
    ("diffusion", "stereo", {"rounds": 0, "word_rate": 0.1}, "word_rate has no effect without rou"),
    ("diffusion", "doco", {"surgery": "none", "strength": 2.0}, "without surgery pcgrad or publi"),
    *[
        ("diffusion", method, {"retain_prompts": "kept.csv", **off}, "retain_prompts has no effect")
        for method, off in {
            "esd": {}, "bounded": {}, "stereo": {}, "advunlearn": {"retain_weight": 0},
            "gs-lora": {"retain_weight": 0}, "salun": {"retain_weight": 0},
            "uproot": {"retain_weight": 0}, "uce": {"preserve_weight": 0},
            "sfd": {"retain_weight": 0, "fake_retain_weight": 0}, "doco": {"surgery": "none"},
        }.items()
    ],
    ("classifier", "gs-lora", {"prototype_bound": 5.0}, "prototype_bound has no effect without pr"),
    ("classifier", "prune", {"rounds": 5}, "rounds has no effect without score synflow"),
    ("classifier", "laf", {"repair_rate": 0.1}, "repair_rate has no effect without repair_labels"),
    ("classifier", "flat", {"retain_weight": 2.0}, "without keep_by images or weights or features"),
    ("classifier", "retrain", {"epochs": 3}, "epochs has no effect without recipe one-cycle"),
]  # fmt: skip


@pytest.mark.parametrize(("sort", "method", "given", "message"), OF_METHODS)
def test_of_methods(sort: Kind, method: str, given: dict[str, Value], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        resolve(METHODS.get(sort, method), given=given, quick=False, presets={})


def test_of_attacks() -> None:
    for attack, given, message in (
        ("latent-inversion", {"refine": 0, "learning_rate": 0.1}, "no effect without refine"),
        ("relearn-grid", {"rank": 8, "selects": "full"}, "rank has no effect without selects lora"),
        ("state-inversion", {"states": __file__, "steps": 3}, "steps has no effect with states"),
    ):
        with pytest.raises(SettingError, match=message):
            resolve(ATTACKS.get(attack), given=given, quick=False, presets={})
