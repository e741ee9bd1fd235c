"""What to erase, what to draw instead, and what must stay."""

import csv
import difflib
import json
import re
import unicodedata
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Self, get_args

ConceptKind = Literal["style", "object", "person", "unsafe", "class"]
TEMPLATES: dict[str, tuple[str, ...]] = {
    "style": ("an image in {name} style", "a painting in the style of {name}", "{name}"),
    "object": ("an image of a {name}", "a photo of a {name}", "a {name}"),
    "person": ("an image of {name}", "a photo of {name}", "{name}"),
    "unsafe": ("an image of {name}", "a photo of {name}", "{name}"),
    "class": ("{name}",),
}


@dataclass(frozen=True)
class Concept:
    """One erasure request. `anchor` is the name drawn instead; "" means no condition at all."""

    name: str
    kind: ConceptKind
    templates: tuple[str, ...] = ()
    anchor: str = ""
    label: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(ConceptKind):
            raise ValueError(
                f"Concept.kind must be one of {', '.join(get_args(ConceptKind))}; "
                f"got {self.kind!r}."
            )
        if not self.name.strip():
            raise ValueError("Concept.name must not be empty.")
        if not self.templates:
            object.__setattr__(self, "templates", TEMPLATES[self.kind])

    def prompts(self) -> list[str]:
        """The prompts that name the concept, in the templates' order."""
        return [template.format(name=self.name) for template in self.templates]

    def anchor_prompts(self) -> list[str]:
        """The same prompts with the anchor in its place; empty where the anchor is no condition."""
        return [
            template.format(name=self.anchor) if self.anchor else "" for template in self.templates
        ]

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, object]) -> Self:
        return cls(**{**record, "templates": tuple(record["templates"])})  # type: ignore[arg-type]


# scripts that put no blank between words: a name is found anywhere in them
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uac00-\ud7af"
    "\uf900-\ufaff\U00020000-\U0003ffff]"
)


def mentions(text: str, name: str) -> bool:
    """Whether the text holds the name as whole words: "fish" is not in "jellyfish".

    Case, accents, and blanks, hyphens or underscores within the name do not count. The plural and
    the possessive of its last word do: "cats" and "cat's" mention cat, "a cat" mentions Cats.
    """
    folded, wanted = _folded(text), _pattern(name)
    return any(
        not _goes_on(folded, found.start() - 1, found.start())
        and not _goes_on(folded, found.end(), found.end() - 1)
        for found in wanted.finditer(folded)
    )


def _folded(text: str) -> str:
    apart = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(letter for letter in apart if not "\u0300" <= letter <= "\u036f")
    return unicodedata.normalize("NFC", plain)


@cache
def _pattern(name: str) -> re.Pattern[str]:
    """Finds the name at every place where it may begin, the longest form first."""
    words = [word for word in re.split(r"[\s_-]+", _folded(name)) if word]
    *before, last = words or [_folded(name)]
    forms = sorted(map(re.escape, _forms(last)), key=len, reverse=True)
    parts = [*map(re.escape, before), f"(?:{'|'.join(forms)})(?:['’]s)?"]
    return re.compile(r"[\s_-]*".join(parts))


def _forms(word: str) -> set[str]:
    """A word's singular and plural, by the regular rules of English."""
    forms = {word, word + "s"}
    if word.endswith(("s", "x", "z", "ch", "sh")):
        forms.add(word + "es")
    if word.endswith("y"):
        forms.add(word[:-1] + "ies")
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        forms.add(word[:-1])
        if word.endswith("ies"):
            forms.add(word[:-3] + "y")
        elif word[:-2].endswith(("s", "x", "z", "ch", "sh")) and word.endswith("es"):
            forms.add(word[:-2])
    return forms


def _goes_on(text: str, outside: int, inside: int) -> bool:
    """Whether a word goes on from the place `inside` to its neighbour `outside`."""
    if not 0 <= outside < len(text) or UNSPACED.match(text[inside]):
        return False
    return all(unicodedata.category(text[place])[0] in "LMN" for place in (outside, inside))


class UnknownConceptError(ValueError):
    """A name that the model's own list does not hold."""


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


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
        record = json.loads(file.read_text())
        return cls(
            tuple(record["objects"]),
            tuple(record["styles"]),
            record["plain_style"],
            record["sentence"],
        )

    def prompt(self, object_name: str, style: str) -> str:
        return self.sentence.format(object=object_name, style=style)

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
        known = {_plain(target): target for target in self.targets()}
        if _plain(name) not in known:
            near = difflib.get_close_matches(_plain(name), list(known), n=3, cutoff=0.5)
            hint = (
                f"Did you mean {' or '.join(known[n] for n in near)}?"
                if near
                else f"Known: {', '.join(known.values())}."
            )
            raise UnknownConceptError(f"this model knows no concept {name!r}. {hint}")
        found = known[_plain(name)]
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

    def _anchor(self, given: str | None, default: str, also: tuple[str, ...] = ()) -> str:
        if given is None:
            return default
        known = {_plain(target): target for target in (*self.targets(), *also)}
        return known.get(_plain(given), given)

    def kept_pairs(self, concepts: list[Concept]) -> list[tuple[str, str]]:
        """Every (object, style) that holds none of the concepts."""
        gone = {concept.name for concept in concepts}
        return [pair for pair in self.pairs() if not gone & set(pair)]


@cache
def common_names(kind: Literal["objects", "styles"]) -> tuple[str, ...]:
    """The built-in everyday nouns, or well-known styles, kept by default for free-text concepts."""
    with (Path(__file__).parent / "prompts" / f"{kind}.csv").open(newline="") as file:
        return tuple(row["name"] for row in csv.DictReader(file))


def retain_prompts(
    concepts: list[Concept], catalogue: Catalogue | None, file: Path | None = None
) -> list[str]:
    """What must stay, without the prompts that hold a concept's name.

    From a CSV's `prompt` column, else the model's own kept pairs, else common nouns and styles. An
    empty result raises ValueError.
    """
    if file is not None:
        with file.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        if not rows or "prompt" not in rows[0]:
            raise ValueError(f"{file} must have a 'prompt' column and at least one row.")
        prompts = [row["prompt"] for row in rows]
    elif catalogue is not None:
        prompts = [catalogue.prompt(*pair) for pair in catalogue.kept_pairs(concepts)]
    else:
        objects, styles = common_names("objects"), common_names("styles")
        prompts = [f"a photo of a {name}" for name in objects]
        prompts += [f"a painting in the style of {style}" for style in styles]
        prompts += [
            f"a {name} in {style} style"
            for name, style in zip(objects, styles * len(objects), strict=False)
        ]
    kept = [p for p in prompts if not any(mentions(p, concept.name) for concept in concepts)]
    if not kept:
        names = " or ".join(concept.name for concept in concepts)
        whose = f"the {len(prompts)} prompts of {file}" if file else f"the {len(prompts)} built in"
        raise ValueError(f"retain prompts must not name {names}; each of {whose} does.")
    return kept
