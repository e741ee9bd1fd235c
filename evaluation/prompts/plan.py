"""What the protocol `prompts` draws, and what an attack on free text must win."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from erasure.errors import SettingError
from erasure.files.naming import slug
from erasure_datasets.concept import TEMPLATES, Concept, filled
from erasure_datasets.errors import DataError
from erasure_datasets.mentions import mentions
from erasure_datasets.paraphrases import GENERAL
from erasure_datasets.prompt_files import LISTS, Line, built_in, read_prompts
from evaluation.drawing.generate import Shot

SEEDS = (188, 288)
Role = Literal["concept", "near", "keep"]


@dataclass(frozen=True)
class Row:
    """One image: whether it asks for an erased concept, a near neighbour of one, or for neither.

    `concept` is the erased one, also of a neighbour's `name`; both are empty for what is kept.
    """

    role: Role
    concept: str
    name: str
    number: int  # of the prompt, in its role
    seed: int
    shot: Shot


def wordings(concept: Concept) -> list[str]:
    """Its own prompts, and more of its kind, which no erasure trains on."""
    kind = concept.kind if concept.kind in GENERAL else "object"
    general = [filled(template, concept.name) for template in GENERAL[kind]]
    return list(dict.fromkeys([*concept.prompts(), *general]))


def concept_lines(concepts: Sequence[Concept], file: str) -> dict[str, list[Line]]:
    """The prompts that ask for each concept, by its name.

    A file's prompts are all the only concept's; of several, each prompt's is the first that it
    names. SettingError for a prompt that names none of several, or a concept without a prompt.
    """
    if not file:
        return {c.name: [Line(text) for text in wordings(c)] for c in concepts}
    lines = _lines(Path(file).expanduser(), "prompts")
    if len(concepts) == 1:
        return {concepts[0].name: lines}
    found: dict[str, list[Line]] = {concept.name: [] for concept in concepts}
    for line in lines:
        owner = next((name for name in found if mentions(line.prompt, name)), None)
        if owner is None:
            raise SettingError(
                f"prompts must each name one of {', '.join(found)}, or stand for one alone "
                f"(--concept); {file} has {line.prompt!r}."
            )
        found[owner].append(line)
    lacking = next((name for name, own in found.items() if not own), None)
    if lacking is not None:
        raise SettingError(f"prompts must name {lacking} too; none of {file} does.")
    return found


def keep_lines(source: str, concepts: Sequence[Concept], count: int) -> list[Line]:
    """At most `count` prompts of a file or a built-in list, evenly spread, none naming a concept.

    SettingError if none is left.
    """
    if source in LISTS:
        lines = [Line(_sentence(source, name)) for name in built_in(source)]
    else:
        lines = _lines(Path(source).expanduser(), "keep_prompts")
    left = [li for li in lines if not any(mentions(li.prompt, c.name) for c in concepts)]
    if not left:
        names = " or ".join(concept.name for concept in concepts)
        raise SettingError(
            f"keep_prompts must not name {names}; each of the {len(lines)} of {source} does."
        )
    step = max(len(left) / count, 1)
    return [left[int(number * step)] for number in range(min(count, len(left)))]


def _sentence(source: str, name: str) -> str:
    if source == "captions":
        return name
    return filled(TEMPLATES["style" if source == "styles" else "object"][1], name)


def _lines(file: Path, setting: str) -> list[Line]:
    try:
        return read_prompts(file)
    except DataError as error:
        known = f" Built in are {', '.join(LISTS)}." if setting == "keep_prompts" else ""
        raise SettingError(f"{setting}: {error}{known}") from error


def plan(
    lines: Mapping[str, Sequence[Line]], near: Mapping[str, Sequence[str]],
    concepts: Sequence[Concept], kept: Sequence[Line], seeds: Sequence[int],
) -> list[Row]:  # fmt: skip
    """Every image: each prompt under each seed, or under its own where its file says one."""
    rows = []
    for concept in concepts:
        own = lines[concept.name]
        rows += _rows("concept", concept.name, concept.name, own, seeds)
        for name in near[concept.name]:
            texts = [Line(filled(t, name)) for t in TEMPLATES[_kind_of_neighbours(concept)]]
            rows += _rows("near", concept.name, name, texts, seeds)
    return rows + _rows("keep", "", "", kept, seeds)


def _kind_of_neighbours(concept: Concept) -> str:
    """A person's are roles, such as doctor: they have an article, as objects have."""
    return "style" if concept.kind == "style" else "object"


def _rows(
    role: Role, concept: str, name: str, lines: Sequence[Line], seeds: Sequence[int]
) -> list[Row]:
    found = []
    for number, line in enumerate(lines):
        for seed in seeds if line.seed is None else (line.seed,):
            noise = noise_seed(line, number, seed)
            head = {"concept": slug(name), "near": f"near-{slug(name)}", "keep": "keep"}[role]
            shot = Shot(line.prompt, noise, f"{file_stem(head, number, line, seed)}.png")
            found.append(Row(role, concept, name, number, seed, shot))
    return found


def noise_seed(line: Line, number: int, seed: int) -> int:
    """The seed of an image's noise: the file's own, or one per prompt and seed."""
    return seed * 1000 + number if line.seed is None else seed


def file_stem(head: str, number: int, line: Line, seed: int) -> str:
    """A picture's name, which no other prompt or noise of the run shares."""
    told = hashlib.sha256(line.prompt.encode()).hexdigest()[:6]
    own = "" if line.seed is None else "-own"  # a file's own seed is another noise
    return f"{head}_prompt{number}-{told}{own}_seed{seed}"
