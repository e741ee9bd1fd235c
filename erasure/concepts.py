"""Which concepts a user means, by name: each with its kind, and with what is drawn instead."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from erasure.config import nearest
from erasure.errors import ErasureError, SettingError
from erasure.models.diffusion.model import DiffusionModel
from erasure_datasets.concept import (
    USER_KINDS,
    Catalogue,
    Concept,
    UnknownConceptError,
    has_article,
    mentions,
)  # fmt: skip
from erasure_datasets.concept_files import Asked, read_concepts


def find_concepts(
    model: DiffusionModel,
    names: str | Sequence[str] | Path,
    *,
    kind: str | Sequence[str] | None = None,
    anchor: str | Sequence[str] | None = None,
    template: str | Sequence[str] | None = None,
    contexts: str | None = None,
    is_drawn: bool = True,
) -> list[Concept]:
    """Concepts by name: from the model's own list where it has one, else free text with a kind.

    A Path is a file of names, with the kind, anchor and templates of each if it says them. `kind`
    and `anchor` are one for all, or one for each name in turn; `template` are prompts with {name}
    or {a name} in them, for every concept of free text. What is drawn instead of a concept is
    nothing that is erased with it or was before: default anchors pass over such names, and given
    ones are refused. SettingError, too, for names that differ in case, "_", "-" or spaces alone, be
    it from one that was erased before.

    `contexts` are names of the model's list, with commas: of prompts that name a concept only those
    are taken that hold one of them, too. Where nothing `is_drawn` instead there are no anchors.
    """
    asked = _asked(names, kind, anchor, template)
    if not is_drawn:
        named = next((one for one in asked if one.anchor), None)
        if named is not None:
            raise SettingError(
                f"anchor of {named.name} has no effect on this method; leave it out."
            )
        asked = [replace(one, anchor="") for one in asked]
    words = [one.name for one in asked]
    twice = next((name for i, name in enumerate(words) if _is_among(name, words[:i])), None)
    if twice is not None:
        raise SettingError(f"concept names must differ; got {', '.join(words)}.")
    found = [_concept(model, one) for one in asked]
    taken = {concept.name for concept in model.taken}
    for concept in found:
        if concept.name not in taken and _is_among(concept.name, sorted(taken)):
            raise SettingError(
                f"concept must be written as before to be erased once more; got {concept.name!r}, "
                f"and {', '.join(sorted(taken))} is gone already."
            )
    gone = taken | {concept.name for concept in found}
    if model.catalogue is not None:
        found = [
            _with_kept_anchor(concept, model.catalogue, gone) if one.anchor is None else concept
            for one, concept in zip(asked, found, strict=True)
        ]
    for concept in found:
        lost = next((name for name in gone if mentions(concept.anchor, name)), None)
        if concept.anchor and lost is not None:
            raise SettingError(
                f"anchor of {concept.name} must be something that stays; got "
                f"{concept.anchor!r}, and {lost} is "
                f"{'gone already' if lost in taken else 'to be erased'}."
            )
        if concept.anchor and model.catalogue is not None:
            _refuse_strange_anchor(concept, model.catalogue, model.name)
    return found if contexts is None else within(model, found, contexts)


def within(model: DiffusionModel, concepts: Sequence[Concept], contexts: str) -> list[Concept]:
    """The concepts, with the prompts alone that hold one of these names, which commas part."""
    if model.catalogue is None:
        raise SettingError(
            f"contexts must be names of a model's own list, and {model.name} has none; leave "
            f"{contexts!r} out."
        )
    names = [name.strip() for name in contexts.split(",")]
    try:
        return [model.catalogue.within(concept, names) for concept in concepts]
    except UnknownConceptError as error:
        raise SettingError(f"contexts: {error}") from error


def unnamed(kind: str | Sequence[str] | None) -> Concept:
    """What is shown by pictures, and by no name; SettingError for a kind, which is a name's."""
    if kind is not None:
        raise SettingError(f"kind is that of a concept that is named; got {kind} and no concept.")
    return Concept("what some pictures show", "pictures")


def refuse_unnamed(
    run: Path, concepts: Sequence[Concept], remedy: str = "name it with --concept"
) -> None:
    """SettingError for what a run erased that has no name, where one is needed."""
    if any(concept.kind == "pictures" for concept in concepts):
        raise SettingError(
            f"{run} erased what pictures show, and nobody said what that is called; {remedy}."
        )


def with_lost_anchors(
    model: DiffusionModel, found: list[Concept], drawn: Collection[str]
) -> list[Concept]:
    """The concepts, and those taken before that are drawn as one of them, which goes too now.

    They are erased anew, with another anchor: their prompts would draw what is to be gone. `drawn`
    names those that are drawn as their anchors at all. SettingError where the model has no list to
    choose an anchor from.
    """
    names = {concept.name for concept in found}
    again = []
    for old in model.taken:
        lost = next((name for name in names if mentions(old.anchor, name)), None)
        if old.name in names or old.name not in drawn or lost is None:
            continue
        if model.catalogue is None:
            raise SettingError(
                f"{lost} is what {old.name} is drawn as since it was erased; erase {old.name} once "
                f"more with it, towards something else: --concept {lost!r} --concept "
                f"{old.name!r}, and --anchor for each."
            )
        gone = names | {concept.name for concept in model.taken}
        again.append(_with_kept_anchor(model.catalogue.concept(old.name), model.catalogue, gone))
    return [*found, *again]


def _refuse_strange_anchor(concept: Concept, catalogue: Catalogue, name: str) -> None:
    """SettingError for an anchor that is not in the model's list, or there as another kind."""
    kinds = {"object": catalogue.objects, "style": catalogue.styles}
    own = kinds.pop(concept.kind)
    if concept.anchor in own:
        return
    if any(concept.anchor in names for names in kinds.values()):
        raise SettingError(
            f"anchor of {concept.name} must be of its own kind, {concept.kind}; "
            f"got {concept.anchor!r}. Known: {', '.join(own)}."
        )
    raise SettingError(
        f"anchor of {concept.name} must be one of {name}'s list, or empty for none; "
        f"got {concept.anchor!r}. {nearest(concept.anchor, own)}"
    )


def _texts(what: str, given: object) -> list[str]:
    """One text or several, as a list; SettingError for what is none."""
    values = (
        [given] if isinstance(given, (str, bytes)) or not isinstance(given, Iterable) else given
    )
    found = []
    for value in values:
        if not isinstance(value, str):
            raise SettingError(f"{what} must be a text, or a list of texts; got {value!r}.")
        found.append(value)
    return found


def _asked(
    names: str | Sequence[str] | Path, kind: str | Sequence[str] | None,
    anchor: str | Sequence[str] | None, template: str | Sequence[str] | None,
) -> list[Asked]:  # fmt: skip
    """Each name with its kind, anchor and templates; at least one."""
    templates = tuple(_texts("template", [] if template is None else template))
    if isinstance(names, Path):
        return _of_file(names, _only("kind", kind), _only("anchor", anchor), templates or None)
    words = _texts("concept", names)
    if not words:
        raise SettingError("concept must be given at least once.")
    kinds, anchors = _paired("kind", kind, words), _paired("anchor", anchor, words)
    return [Asked(*parts, templates) for parts in zip(words, kinds, anchors, strict=True)]


def _of_file(
    file: Path, kind: str | None, anchor: str | None, templates: tuple[str, ...] | None
) -> list[Asked]:  # fmt: skip
    """What a file says, and for each name of which it does not, what is given for all.

    SettingError where it says that of every name.
    """
    found = read_concepts(file)
    for what, given in (("kind", kind), ("anchor", anchor), ("templates", templates)):
        if given is not None and all(getattr(one, what) for one in found):
            raise SettingError(f"{what} has no effect: {file} says it of every concept.")
        if given is not None:
            said: dict[str, Any] = {what: given}
            found = [one if getattr(one, what) else replace(one, **said) for one in found]
    return found


def _only(what: str, given: str | Sequence[str] | None) -> str | None:
    values = _texts(what, [] if given is None else given)
    if len(values) > 1:
        raise SettingError(f"{what} beside a file of concepts must be one for all; got {given}.")
    return values[0] if values else None


def _concept(model: DiffusionModel, asked: Asked) -> Concept:
    name, kind = asked.name, asked.kind
    try:
        if model.catalogue is not None:
            found = model.catalogue.concept(name, asked.anchor)
            if kind is not None and kind != found.kind:
                raise SettingError(f"kind of {found.name} is {found.kind}; got {kind!r}.")
            if asked.templates:
                raise SettingError(
                    f"template is for free text; {model.name} has prompts of its own for "
                    f"{found.name}, of which contexts chooses. Leave it out."
                )
            return found
        if kind not in USER_KINDS:
            raise SettingError(
                f"kind must be given for {name!r}: one of {', '.join(USER_KINDS)}; got {kind}."
            )
        for template in asked.templates:
            _refuse_template(template, (name, asked.anchor or ""))
        return Concept(name, kind, asked.templates, asked.anchor or "")  # type: ignore[arg-type]
    except UnknownConceptError as error:
        raise SettingError(
            f"{error} {model.name} has a list of its concepts, so that no other text is taken."
        ) from error
    except ValueError as error:
        raise error if isinstance(error, ErasureError) else SettingError(str(error)) from error


def _refuse_template(template: str, names: Sequence[str]) -> None:
    """SettingError for one that has no place for the names, or an article too many before it."""
    if "{name}" not in template and "{a name}" not in template:
        raise SettingError(
            f"template must hold {{name}} or {{a name}}, where the concept stands; got "
            f"{template!r}."
        )
    twice = next((name for name in names if has_article(name)), None)
    if twice is not None and re.search(r"\b(a|an|the) {name}", template, re.IGNORECASE):
        raise SettingError(
            f"template must have {{a name}} for {twice!r}, which has an article of its own; got "
            f"{template!r}."
        )


def _paired(
    what: str, given: str | Sequence[str] | None, names: Sequence[str]
) -> Sequence[str | None]:
    """One value per name: the only one for all, or each its own."""
    values = _texts(what, [] if given is None else given)
    if len(values) not in (0, 1, len(names)):
        raise SettingError(
            f"{what} must be given once, or once for each of the {len(names)} concepts in their "
            f"order; got {len(values)}."
        )
    return values if len(values) == len(names) else [values[0] if values else None] * len(names)


def _with_kept_anchor(concept: Concept, catalogue: Catalogue, gone: set[str]) -> Concept:
    """An object's default anchor is the next object that stays."""
    if concept.anchor not in gone:
        return concept
    objects = catalogue.objects
    first = objects.index(concept.name) + 1
    left = [name for name in (*objects[first:], *objects[:first]) if name not in gone]
    return replace(concept, anchor=left[0] if left else "")


def _is_among(name: str, others: Sequence[str]) -> bool:
    def plain(text: str) -> str:
        return "".join(letter for letter in text.casefold() if letter not in "_- ")

    def is_same(other: str) -> bool:
        return plain(name) == plain(other) or (mentions(name, other) and mentions(other, name))

    return any(map(is_same, others))
