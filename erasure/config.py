"""Settings: frozen dataclasses whose fields carry help and valid ranges; where values came from."""

import difflib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from erasure.errors import SettingError

Value = str | int | float | bool
SettingsT = TypeVar("SettingsT")
# where a given value came from, if not from the command line or a caller's own
Origin = Literal["settings file", "earlier run"]
FILE: Final = "settings file"
EARLIER: Final = "earlier run"
Source = Literal["command line", "settings file", "earlier run", "quick", "model preset", "default"]
NAMED: Final = ("command line", FILE)  # what comes from here, somebody expects to do something
# of any number that declares no bound of its own: beyond it, a step overflows float32
LARGEST = {float: 1e6, int: 10**9}


def setting(
    default: Value,
    *,
    help: str,
    quick: Value | None = None,
    rehearsal: int | None = None,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    when: str = "",
) -> Any:
    """A dataclass field with help text, an optional value for `--quick`, and its valid range.

    `rehearsal` is the most that a dry run's rehearsal takes of it, to be short. Without `at_most`,
    numbers go up to `LARGEST` in size. `when` says what must hold of another field for this one to
    have an effect, or else `resolve` refuses it: "renew" (above 0, True or not empty), "not mask"
    (none of that), "score=imp|synflow" (one of its words, or among its words where it lists some
    with commas), or several of the first and third sort, as in "retain_weight or score=wagle".
    """
    limits = {"above": above, "at_least": at_least, "at_most": at_most}
    told = {"help": help, "quick": quick, "rehearsal": rehearsal, "when": when, **limits}
    return field(default=default, metadata=told)


@dataclass(frozen=True)
class Switch:
    """A setting that must be on or, where there are words, have one of these."""

    name: str
    words: tuple[str, ...]

    def is_on(self, value: Value) -> bool:
        """Whether it is at this value, which may be several words with commas."""
        if self.words:
            return any(part.strip() in self.words for part in str(value).split(","))
        return value != "" if isinstance(value, str) else value > 0

    def __str__(self) -> str:
        return f"{self.name} {' or '.join(self.words)}".rstrip()


@dataclass(frozen=True)
class Condition:
    """When a setting has an effect: with one of the switches on, or, negated, with none."""

    switches: tuple[Switch, ...]
    is_negated: bool

    @classmethod
    def of(cls, item: Field[Any]) -> "Condition | None":
        """What a field's `when` says; None for one that always has an effect."""
        when: str = item.metadata.get("when", "")
        if not when:
            return None
        terms = when.removeprefix("not ")
        parts = [term.partition("=") for term in terms.split(" or ")]
        found = [Switch(name, tuple(words.split("|")) if words else ()) for name, _, words in parts]
        return cls(tuple(found), terms != when)

    def holds(self, settings: object) -> bool:
        """Whether it does among settings of the same class."""
        states = [switch.is_on(getattr(settings, switch.name)) for switch in self.switches]
        return any(states) != self.is_negated

    def told(self, *, holds: bool = True) -> str:
        """In words: "with renew", or "without renew" where it does not hold."""
        word = "with" if holds != self.is_negated else "without"
        return f"{word} {' or '.join(map(str, self.switches))}"


def needs(item: Field[Any]) -> str:
    """What help adds for a setting that needs another one: "; only with renew"; or nothing."""
    condition = Condition.of(item)
    return f"; only {condition.told()}" if condition else ""


def number_list(name: str, text: str, *, least: float, most: float) -> list[float]:
    """The numbers of a setting such as "0.3,0.5"; SettingError for none, or one out of range."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise SettingError(f"{name} must be numbers with commas; got {text!r}.") from None
    for number in numbers:
        if not least <= number <= most:
            raise SettingError(f"{name} must be from {least:g} to {most:g}; got {number:g}.")
    return numbers


def typed(kind: type, text: str, name: str) -> dict[str, Value]:
    """Values such as "epochs=3,select=mlp", as the settings of `kind` have them.

    SettingError, about the setting `name` that holds them, for what is none.
    """
    hints, found = get_type_hints(kind), dict[str, Value]()
    known = [item.name for item in fields(kind)]
    for part in filter(None, (part.strip() for part in text.split(","))):
        word, equals, value = part.partition("=")
        word = word.strip().replace("-", "_")
        if word not in known:
            raise SettingError(
                f"{name} must be settings of {kind.__name__}, as in epochs=3; got {part!r}. "
                f"{nearest(word, known)}"
            )
        try:
            found[word] = _read(hints[word], value.strip() if equals else "true")
        except ValueError:
            wanted = getattr(hints[word], "__name__", "a word")
            raise SettingError(f"{name}: {word} must be {wanted}; got {value!r}.") from None
    return found


def _read(hint: object, text: str) -> Value:
    if hint is bool:
        return ["false", "true"].index(text.lower()) == 1
    return hint(text) if hint in (int, float) else text  # type: ignore[operator]


def choices(annotation: object) -> tuple[str, ...]:
    """The valid words of a `Literal` annotation; empty for any other."""
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def check(settings: object) -> None:
    """Raise SettingError for the first field whose value has the wrong type or is out of range."""
    hints = get_type_hints(type(settings))
    for item in fields(settings):  # type: ignore[arg-type]
        _check_one(type(settings).__name__, item, hints[item.name], getattr(settings, item.name))


def _check_one(owner: str, item: Field[Any], hint: object, value: Value) -> None:
    name = f"{owner}.{item.name}"
    words = choices(hint)
    if words:
        if value not in words:
            raise SettingError(f"{name} must be one of {', '.join(words)}; got {value!r}.")
        return
    valid_types = (int, float) if hint is float else (hint,)
    if not isinstance(value, valid_types) or (isinstance(value, bool) and hint is not bool):  # type: ignore[arg-type]
        raise SettingError(f"{name} must be {getattr(hint, '__name__', hint)}; got {value!r}.")
    above, low, high = (item.metadata.get(key) for key in ("above", "at_least", "at_most"))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value != value:
            raise SettingError(f"{name} must be a number; got {value}.")
        most = LARGEST[float if hint is float else int] if high is None else high
        for wrong, words_ in (
            (above is not None and value <= above, f"above {above}"),
            (low is not None and value < low, f"at least {low}"),
            (value > most, f"at most {most:g}"),
            (value < -most, f"at least {-most:g}"),
        ):
            if wrong:
                raise SettingError(f"{name} must be {words_}; got {value}.")


def refuse_without_effect(
    method: type, word: str, values: Mapping[str, tuple[object, object]]
) -> None:
    """SettingError for a value other than its default that the method would pass over.

    `values` has pairs (value, default). A method names such settings as `without_effect`.
    """
    for name in getattr(method, "without_effect", ()):
        value, default = values.get(name, (None, None))
        if value != default:
            raise SettingError(
                f"{name} has no effect on {word}, which does not use it; got {value}. Leave it out."
            )


def refuse_idle(settings: object, sources: Mapping[str, Source]) -> None:
    """SettingError for a value that somebody named, and that other settings leave without effect.

    One that is the default all the same passes.
    """
    owner, known = type(settings).__name__, {item.name: item for item in fields(settings)}  # type: ignore[arg-type]
    for name, item in known.items():
        condition = Condition.of(item)
        if condition is None:
            continue
        for wrong in (s.name for s in condition.switches if s.name not in known):
            raise SettingError(
                f"{owner}.{name} depends on {wrong!r}, which {owner} does not have. "
                f"{nearest(wrong, list(known))}"
            )
        value = getattr(settings, name)
        if sources[name] in NAMED and value != item.default and not condition.holds(settings):
            others = [s.name for s in condition.switches]
            states = " and ".join(f"{other} {_shown(getattr(settings, other))}" for other in others)
            raise SettingError(
                f"{owner}.{name} has no effect {condition.told(holds=False)}; "
                f"got {_shown(value)} with {states}."
            )


def _shown(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"


def shortened(settings: SettingsT) -> SettingsT:
    """The settings that a dry run rehearses with: less of what a method only does more of."""
    most = {
        item.name: min(getattr(settings, item.name), item.metadata["rehearsal"])
        for item in fields(settings)  # type: ignore[arg-type]
        if item.metadata.get("rehearsal") is not None
    }
    return replace(settings, **most)  # type: ignore[type-var]


def module_names(folder: Path) -> list[str]:
    """The words for a folder's modules: their stems with hyphens. Nothing is imported."""
    return sorted(found.name.replace("_", "-") for found in pkgutil.iter_modules([str(folder)]))


def nearest(word: str, known: Sequence[str]) -> str:
    """A sentence end that names the likeliest spellings, or all when none is near."""
    near = difflib.get_close_matches(word.lower(), [k.lower() for k in known], n=3, cutoff=0.5)
    names = [k for k in known if k.lower() in near]
    return f"Did you mean {' or '.join(names)}?" if names else f"Known: {', '.join(known)}."


def resolve(
    kind: type[SettingsT], *, given: Mapping[str, Value], quick: bool,
    presets: Mapping[str, Value] | None, origins: Mapping[str, Origin] | None = None,
) -> tuple[SettingsT, dict[str, Source]]:  # fmt: skip
    """Build settings; precedence: given > quick > the model's presets > dataclass defaults.

    Returns the settings and, per field, where its value came from: given ones from the command
    line, unless `origins` says otherwise. SettingError for unknown names, and for a value from the
    command line, a caller or a settings file that has no effect beside the others (`when`); of a
    model that is not known yet, whose `presets` are None, that cannot be said.
    """
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    is_checked, presets = presets is not None, presets or {}
    for origin, offered in (("setting", given), ("preset", presets)):
        for name in offered:
            if name not in known:
                raise SettingError(
                    f"{kind.__name__} has no {origin} {name!r}. {nearest(name, list(known))}"
                )
    values: dict[str, Value] = {}
    sources: dict[str, Source] = {}
    for name, item in known.items():
        if name in given:
            values[name], sources[name] = given[name], (origins or {}).get(name, "command line")
        elif quick and item.metadata["quick"] is not None:
            values[name], sources[name] = item.metadata["quick"], "quick"
        elif name in presets:
            values[name], sources[name] = presets[name], "model preset"
        else:
            sources[name] = "default"
    settings = kind(**values)
    if is_checked:
        refuse_idle(settings, sources)
    return settings, sources
