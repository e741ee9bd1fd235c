"""What a sweep is asked for, from flags or a TOML file, checked before anything runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, TypedDict

from erasure.config import nearest
from erasure.errors import SettingError
from erasure.files.naming import checked_path
from erasure.files.records import Value, checked_record
from erasure.files.toml import read_toml
from erasure.models.built_in import CLASSIFIERS, DIFFUSION, POCKET
from erasure.models.diffusion.beside import read_presets
from erasure.registry import ATTACKS, METHODS, Kind
from erasure_datasets.canvas import OBJECTS
from erasure_datasets.concept import Catalogue, UnknownConceptError
from evaluation.sweeping.options import checked_options

Options = dict[str, Value | list[Any]]
QUICK_SUBSET = 96  # images of the protocol `pocket` in a quick sweep, as in `erasure quickstart`


class GridShape(TypedDict, total=False):
    """The keys of a sweep's TOML file; the last four are tables."""

    model: str
    methods: list[str]
    concepts: list[str | list[str]]
    classes: list[str | list[str]]
    seeds: list[int]
    attacks: list[str]
    evaluate: bool
    quick: bool
    settings: dict[str, Any]
    evaluation: dict[str, Any]
    attack: dict[str, Any]
    concept: dict[str, dict[str, str]]


@dataclass(frozen=True)
class Grid:
    """Every method on every entry of `concepts` with every seed; an entry's are taken out together.

    `of_classes`: they are a classifier's classes. `settings` and `attack` are options by method and
    by attack, `evaluation` those of `erasure evaluate`, `told` a concept's kind and anchor.
    """

    model: str
    methods: tuple[str, ...]
    concepts: tuple[tuple[str, ...], ...]
    of_classes: bool
    seeds: tuple[int, ...]
    attacks: tuple[str, ...]
    evaluate: bool
    quick: bool
    settings: Mapping[str, Options] = field(default_factory=dict)
    evaluation: Options = field(default_factory=dict)
    attack: Mapping[str, Options] = field(default_factory=dict)
    told: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        return "classifier" if self.of_classes else "diffusion"

    def places(self) -> list[tuple[str, tuple[str, ...], int]]:
        """(method, concepts, seed) of every cell; all methods of one concept come in a row.

        A method that draws nothing at random, such as uce, has one cell of seed 0.
        """
        fixed = self._without_seed() if self.seeds != (0,) else set()
        order = product(self.seeds, self.concepts, self.methods)
        return [
            (method, concepts, 0 if method in fixed else seed)
            for seed, concepts, method in order
            if method not in fixed or seed == self.seeds[0]
        ]

    def _without_seed(self) -> set[str]:
        found = {method: METHODS.get(self.kind, method) for method in self.methods}
        return {name for name, its in found.items() if "seed" in getattr(its, "without_effect", ())}


def read_grid(file: Path) -> dict[str, Any]:
    """A TOML file's keys; SettingError for one that no sweep has."""
    given = read_toml(file, "the grid")
    for key in given:
        if key not in GridShape.__annotations__:
            known = sorted(GridShape.__annotations__)
            raise SettingError(f"{file} has {key!r}, which no sweep takes. {nearest(key, known)}")
    return given


def make_grid(given: Mapping[str, Any], where: str = "the grid") -> Grid:
    """The grid of such keys; SettingError, in one line, for anything in it that is not valid."""
    checked_record(dict(given), GridShape, where, error=SettingError)
    of_classes = "classes" in given
    if of_classes == ("concepts" in given):
        raise SettingError(f"a sweep needs either concepts or classes; {where} has " + (
            "both." if of_classes else "none."
        ))  # fmt: skip
    model = given.get("model", "pocket-vit" if of_classes else "pocket")
    checked_path(model, "model")
    kind: Kind = "classifier" if of_classes else "diffusion"
    entries = given["classes" if of_classes else "concepts"]
    concepts = [_known(model, [e] if isinstance(e, str) else e, of_classes) for e in entries]
    methods = [METHODS.kinds[kind].known(name) for name in given.get("methods", ())]
    attacks = [ATTACKS.known(name) for name in given.get("attacks", ())]
    seeds, quick = given.get("seeds", [0]), given.get("quick", False)
    for name, values in (("methods", methods), ("concepts", concepts), ("seeds", seeds)):
        if not values or not all(value != () for value in values):
            raise SettingError(f"{name} must name at least one; {where} has none.")
    if attacks and of_classes:
        raise SettingError("attacks are tried on runs that erase concepts; classes have none.")
    if any(seed < 0 for seed in seeds):
        raise SettingError(f"seeds must be whole numbers from 0 on; got {min(seeds)}.")
    evaluation = checked_options(
        "evaluation", "", given.get("evaluation", {}), quick=quick, presets={}
    )
    if quick and not of_classes and model in DIFFUSION:
        is_pocket = evaluation.get("protocol", "pocket") == "pocket"
        evaluation |= {"subset": QUICK_SUBSET} if is_pocket and "subset" not in evaluation else {}
    return Grid(
        model, tuple(methods), tuple(concepts), of_classes, tuple(seeds), tuple(attacks),
        given.get("evaluate", True), quick,
        _by_name(kind, methods, given.get("settings", {}), "settings", model, quick), evaluation,
        _by_name("attack", attacks, given.get("attack", {}), "attack", model, quick),
        _told(model, concepts, given.get("concept", {}), of_classes),
    )  # fmt: skip


def _known(model: str, names: Sequence[str], of_classes: bool) -> tuple[str, ...]:
    """The names as the model has them, where it has a list; SettingError for one that it lacks."""
    if of_classes:
        wrong = next((n for n in names if model == "pocket-vit" and n not in OBJECTS), None)
        if wrong is not None:
            raise SettingError(f"{model} knows no class {wrong!r}. {nearest(wrong, OBJECTS)}")
        return tuple(names)
    folder = POCKET if model in DIFFUSION else Path(model).expanduser()
    if not (folder / "concepts.json").is_file():
        return tuple(names)
    catalogue = Catalogue.load(folder / "concepts.json")
    try:
        return tuple(catalogue.concept(name).name for name in names)
    except UnknownConceptError as error:
        raise SettingError(str(error)) from error


def _by_name(
    kind: str, names: Sequence[str], table: Mapping[str, Any], title: str, model: str, quick: bool
) -> dict[str, Options]:
    """The options of each of a table's plug-ins: those for all of them, and then its own."""
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    own = {key.replace("_", "-"): value for key, value in inner.items()}
    strange = next((key for key in own if key not in names), None)
    if strange is not None:
        raise SettingError(
            f"[{title}.{strange}] is for nothing in this sweep, which has "
            f"{', '.join(names) or 'none'}."
        )
    shared = {key: value for key, value in table.items() if key not in inner}
    if shared and not names:
        raise SettingError(f"[{title}] is for nothing in this sweep, which has no {title}.")
    return {
        name: checked_options(
            kind, name, {**shared, **own.get(name, {})}, quick=quick, presets=_presets(model, name)
        )
        for name in names
    }


def _presets(model: str, name: str) -> Mapping[str, Value] | None:
    """What a model's folder has for a method or attack; None where only opening it will tell."""
    folder = {**DIFFUSION, **CLASSIFIERS}.get(model) or Path(model).expanduser()
    return read_presets(folder, name) if (folder / "presets.json").is_file() else None


def _told(
    model: str, concepts: Sequence[Sequence[str]], table: Mapping[str, Mapping[str, str]],
    of_classes: bool,
) -> dict[str, Mapping[str, str]]:  # fmt: skip
    """Kinds and anchors by concept; of several that are erased together all or none have them."""
    found = dict[str, Mapping[str, str]]()
    for key, told in table.items():
        (name,) = _known(model, [key], of_classes)
        if of_classes or not any(name in entry for entry in concepts):
            raise SettingError(f"[concept.{key}] is for nothing in this sweep.")
        strange = next((word for word in told if word not in ("kind", "anchor")), None)
        if strange is not None:
            raise SettingError(f"[concept.{key}] has {strange!r}; it may have kind and anchor.")
        found[name] = told
    for entry in concepts:
        for word in ("kind", "anchor"):
            having = [name for name in entry if word in found.get(name, {})]
            if having and len(having) < len(entry):
                other = next(name for name in entry if name not in having)
                raise SettingError(
                    f"[concept.{other}] must say its {word} too, as {having[0]}'s does, with which "
                    "it is erased."
                )
    return found
