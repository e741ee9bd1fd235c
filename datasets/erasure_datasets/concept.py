"""What to erase, what to draw instead, and what must stay."""

import difflib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, Self, get_args

from erasure_datasets.errors import DataError
from erasure_datasets.mentions import mentions
from erasure_datasets.prompt_files import built_in, read_prompts

ConceptKind = Literal["style", "object", "person", "unsafe", "pictures", "class", "samples"]
TEMPLATES: dict[str, tuple[str, ...]] = {
    "style": ("an image in {name} style", "a painting in the style of {name}", "{name}"),
    "object": ("an image of {a name}", "a photo of {a name}", "{a name}"),
    "person": ("an image of {name}", "a photo of {name}", "{name}"),
    "unsafe": ("an image of {name}", "a photo of {name}", "{name}"),
    "pictures": ("",),  # what they show has no word
    "class": ("{name}",),
    "samples": ("{name}",),
}


# of --kind
USER_KINDS = tuple(kind for kind in TEMPLATES if kind not in ("pictures", "class", "samples"))
VOWELS = frozenset("aeiouAEIOU")
LONGEST = 1000  # characters of a name; the model's window is far shorter


# letters by their category that show nothing all the same: fillers and variation selectors
BLANK = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0\u180b\u180c\u180d") | frozenset(
    map(chr, range(0xFE00, 0xFE10))
)
JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji have them within a word


def _check_name(setting: str, name: object) -> None:
    """ValueError for a name that no prompt and no file could hold, or that reads as another."""
    if not isinstance(name, str):
        raise ValueError(f"{setting} must be a text; got {name!r}.")
    if not name.strip():
        raise ValueError(f"{setting} must not be empty.")
    odd = next((letter for letter in name if _is_odd(letter)), None) or next(
        (letter for letter in (name.strip()[0], name.strip()[-1]) if letter in JOINERS), None
    )
    if odd is not None:
        raise ValueError(f"{setting} must be a plain line of text; {name!a} has {odd!a}.")
    if all(letter.isspace() or letter in BLANK for letter in name):
        raise ValueError(f"{setting} must have a letter that can be seen; got {name!a}.")
    if len(name) > LONGEST:
        raise ValueError(f"{setting} must have up to {LONGEST} characters; got {len(name)}.")


def _is_odd(letter: str) -> bool:
    """Whether it ends a line, steers a terminal, or is there and not seen."""
    return letter not in JOINERS and unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")


@dataclass(frozen=True)
class Concept:
    """One erasure request. `anchor` is the name drawn instead; "" means no condition at all."""

    name: str
    kind: ConceptKind
    templates: tuple[str, ...] = ()
    anchor: str = ""
    label: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in get_args(ConceptKind):
            raise ValueError(
                f"Concept.kind must be one of {', '.join(get_args(ConceptKind))}; "
                f"got {self.kind!r}."
            )
        _check_name("Concept.name", self.name)
        if self.anchor != "":
            _check_name("Concept.anchor", self.anchor)
        if not all(isinstance(template, str) for template in self.templates):
            raise ValueError(f"Concept.templates must be texts; got {self.templates!r}.")
        if not (self.label is None or isinstance(self.label, int)):
            raise ValueError(f"Concept.label must be a class's number; got {self.label!r}.")
        if not self.templates:
            object.__setattr__(self, "templates", TEMPLATES[self.kind])

    def prompts(self) -> list[str]:
        """The prompts that name the concept, in the templates' order."""
        return [filled(template, self.name) for template in self.templates]

    def anchor_prompts(self) -> list[str]:
        """The same prompts with the anchor in its place; empty where the anchor is no condition."""
        return [filled(template, self.anchor) if self.anchor else "" for template in self.templates]

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, object]) -> Self:
        """What `as_json` gave; ValueError for what is no such record."""
        lacking = [item.name for item in fields(cls) if item.name not in record]
        if lacking or not isinstance(record["templates"], (list, tuple)):
            wrong = f"it has no {lacking[0]}" if lacking else "its templates are no list"
            raise ValueError(f"a concept must be a record as edit.json holds it; {wrong}.")
        known = {item.name: record[item.name] for item in fields(cls)}
        return cls(**{**known, "templates": tuple(record["templates"])})  # type: ignore[arg-type]


def filled(template: str, name: str) -> str:
    """The template with {name}, and {a name} with its article, unless the name has its own.

    Other braces stay as they are.
    """
    article = "an" if name[:1] in VOWELS else "a"
    with_article = name if has_article(name) else f"{article} {name}"
    return _replaced(template, {"name": name, "a name": with_article})


def has_article(name: str) -> bool:
    """Whether it begins with a, an or the, and goes on."""
    first, _, rest = name.partition(" ")
    return first.lower() in ("a", "an", "the") and bool(rest.strip())


def without_article(name: str) -> str:
    """The name without its own a, an or the."""
    return name.partition(" ")[2].lstrip() if has_article(name) else name


def _replaced(template: str, texts: dict[str, str]) -> str:
    return re.sub(rf"{{({'|'.join(texts)})}}", lambda found: texts[found[1]], template)


class UnknownConceptError(ValueError):
    """A name that the model's own list does not hold."""


def plain_name(name: str) -> str:
    """A name as it is compared: without regard to case, `_`, `-` and spaces."""
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


def _check_names(file: Path, key: str, names: list[object]) -> None:
    try:
        for name in names:
            _check_name(f"each of {key!r}", name)
    except ValueError as error:
        raise DataError(f"{file}: {error}") from error


@dataclass(frozen=True)
class Catalogue:
    """A model's known objects and styles and the sentence that joins them.

    Its folder holds them in `concepts.json`.
    """

    objects: tuple[str, ...]
    styles: tuple[str, ...]
    plain_style: str
    sentence: str

    @classmethod
    def load(cls, file: Path) -> Self:
        """What the file holds; DataError names it if it cannot be read or is no such record."""
        try:
            record = json.loads(file.read_bytes().decode("utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{file} cannot be read as a list of concepts: {error}.") from error
        record = record if isinstance(record, dict) else {}
        for key in ("objects", "styles"):
            names = record.get(key)
            if not isinstance(names, list) or not names:
                raise DataError(f"{file} must have a list of names as {key!r}; got {names!r}.")
            _check_names(file, key, names)
        for key in ("plain_style", "sentence"):
            if not isinstance(record.get(key), str):
                raise DataError(f"{file} must have a text as {key!r}; got {record.get(key)!r}.")
        both = record["objects"] + record["styles"]
        if len(set(map(plain_name, both))) < len(both):
            raise DataError(f"{file} must have different names as objects and styles.")
        if record["plain_style"] not in record["styles"]:
            raise DataError(f"{file} must have its plain_style among its styles.")
        if not all(f"{{{part}}}" in record["sentence"] for part in ("object", "style")):
            raise DataError(f"{file} must have {{object}} and {{style}} in its sentence.")
        return cls(
            tuple(record["objects"]),
            tuple(record["styles"]),
            record["plain_style"],
            record["sentence"],
        )

    def prompt(self, object_name: str, style: str) -> str:
        return _replaced(self.sentence, {"object": object_name, "style": style})

    def pairs(self) -> list[tuple[str, str]]:
        """Every (object, style), objects outermost, in list order."""
        return [(name, style) for name in self.objects for style in self.styles]

    def targets(self) -> list[str]:
        """Every name that can be erased; the plain style is none."""
        return [*self.objects, *(style for style in self.styles if style != self.plain_style)]

    def concept(self, name: str, anchor: str | None = None) -> Concept:
        """Find a target, ignoring case, `_`, `-` and spaces. UnknownConceptError lists near names.

        A style's default anchor is the plain style, an object's is the next object in the list.
        """
        known = {plain_name(target): target for target in self.targets()}
        if plain_name(name) not in known:
            near = difflib.get_close_matches(plain_name(name), list(known), n=3, cutoff=0.7)
            hint = (
                f"Did you mean {' or '.join(known[n] for n in near)}?"
                if near
                else f"Known: {', '.join(known.values())}."
            )
            raise UnknownConceptError(f"this model knows no concept {name!r}. {hint}")
        found = known[plain_name(name)]
        if found in self.styles:
            templates = tuple(self.prompt(o, "{name}") for o in self.objects)
            return Concept(
                found,
                "style",
                templates,
                self._anchor(anchor, self.plain_style, (self.plain_style,)),
                None,
            )
        label = self.objects.index(found)
        following = self.objects[(label + 1) % len(self.objects)]
        templates = tuple(self.prompt("{name}", s) for s in self.styles)
        return Concept(found, "object", templates, self._anchor(anchor, following), label)

    def others(self, concept: Concept) -> tuple[str, ...]:
        """What a concept's prompts name beside it: styles of an object, objects of a style."""
        return self.objects if concept.kind == "style" else self.styles

    def within(self, concept: Concept, names: Sequence[str]) -> Concept:
        """The concept with those of its templates alone that hold one of these names.

        Names of its own kind are for other concepts. UnknownConceptError for a name that the list
        does not hold, or if none is left.
        """
        known = {plain_name(name): name for name in (*self.objects, *self.styles)}
        strange = next((name for name in names if plain_name(name) not in known), None)
        if strange is not None:
            near = difflib.get_close_matches(plain_name(strange), list(known), n=3, cutoff=0.7)
            listed = " or ".join(known[n] for n in near) or ", ".join(known.values())
            raise UnknownConceptError(f"{strange!r} is not in the model's list: {listed}.")
        named = {known[plain_name(name)] for name in names}
        others = self.others(concept)
        left = [t for t, name in zip(concept.templates, others, strict=True) if name in named]
        if not left:
            raise UnknownConceptError(
                f"none of {', '.join(names)} goes with {concept.name}. Known: {', '.join(others)}."
            )
        return replace(concept, templates=tuple(left))

    def contexts(self, concept: Concept) -> tuple[str, ...]:
        """The names that a concept's prompts hold beside it, as far as they are this list's."""
        asked = set(concept.prompts())
        is_style = concept.kind == "style"
        return tuple(
            name
            for name in self.others(concept)
            if self.prompt(*((name, concept.name) if is_style else (concept.name, name))) in asked
        )

    def _anchor(self, given: str | None, default: str, also: tuple[str, ...] = ()) -> str:
        if given is None:
            return default
        known = {plain_name(target): target for target in (*self.targets(), *also)}
        return known.get(plain_name(given), given)

    def kept_pairs(self, concepts: list[Concept]) -> list[tuple[str, str]]:
        """Every (object, style) that holds none of the concepts."""
        gone = {concept.name for concept in concepts}
        return [pair for pair in self.pairs() if not gone & set(pair)]


def retain_prompts(
    concepts: list[Concept], catalogue: Catalogue | None, file: Path | str = ""
) -> list[str]:
    """What must stay, without the prompts that hold a concept's name.

    From a file of prompts, else the model's own kept pairs, else common nouns and styles. DataError
    for a file that cannot be read, and for an empty result.
    """
    if file:
        prompts = [line.prompt for line in read_prompts(Path(file))]
    elif catalogue is not None:
        prompts = [catalogue.prompt(*pair) for pair in catalogue.kept_pairs(concepts)]
        if not prompts:
            raise DataError("concepts must leave something to keep; every pair of names has one.")
    else:
        objects, styles = built_in("objects"), built_in("styles")
        prompts = [filled("a photo of {a name}", name) for name in objects]
        prompts += [f"a painting in the style of {style}" for style in styles]
        prompts += [
            filled("{a name} in ", name) + f"{style} style"
            for name, style in zip(objects, styles * len(objects), strict=False)
        ]
    kept = [p for p in prompts if not any(mentions(p, concept.name) for concept in concepts)]
    if not kept:
        names = " or ".join(concept.name for concept in concepts)
        whose = f"the {len(prompts)} prompts of {file}" if file else f"the {len(prompts)} built in"
        raise DataError(f"retain prompts must not name {names}; each of {whose} does.")
    return kept
