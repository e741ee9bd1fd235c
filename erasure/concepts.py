"""Which concepts a user means, by name: each with its kind, and with what is drawn instead."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from erasure.config import nearest
from erasure.errors import ErasureError, SettingError
from erasure.models.diffusion.model import DiffusionModel
from erasure_datasets.concept import (
    USER_KINDS,
    Catalogue,
    Concept,
    UnknownConceptError,
    mentions,
)  # fmt: skip


def find_concepts(
    model: DiffusionModel,
    names: str | Sequence[str],
    *,
    kind: str | Sequence[str] | None = None,
    anchor: str | Sequence[str] | None = None,
    contexts: str | None = None,
) -> list[Concept]:
    """Concepts by name: from the model's own list where it has one, else free text with a kind.

    `kind` and `anchor` are one for all, or one for each name in turn. What is drawn instead of a
    concept is nothing that is erased with it or was before: default anchors pass over such names,
    and given ones are refused. SettingError, too, for names that differ in case, "_", "-" or spaces
    alone, be it from one that was erased before.

    `contexts` are names of the model's list, with commas: of prompts that name a concept only those
    are taken that hold one of them, too.
    """
    names = _texts("concept", names)
    if not names:
        raise SettingError("concept must be given at least once.")
    twice = next((name for i, name in enumerate(names) if _is_among(name, names[:i])), None)
    if twice is not None:
        raise SettingError(f"concept names must differ; got {', '.join(names)}.")
    found = [
        _concept(model, *parts)
        for parts in zip(
            names, _paired("kind", kind, names), _paired("anchor", anchor, names), strict=True
        )
    ]
    taken = {concept.name for concept in model.taken}
    for concept in found:
        if concept.name not in taken and _is_among(concept.name, sorted(taken)):
            raise SettingError(
                f"concept must be written as before to be erased once more; got {concept.name!r}, "
                f"and {', '.join(sorted(taken))} is gone already."
            )
    gone = taken | {concept.name for concept in found}
    if model.catalogue is not None and anchor is None:
        found = [_with_kept_anchor(concept, model.catalogue, gone) for concept in found]
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


def _concept(model: DiffusionModel, name: str, kind: str | None, anchor: str | None) -> Concept:
    try:
        if model.catalogue is not None:
            found = model.catalogue.concept(name, anchor)
            if kind is not None and kind != found.kind:
                raise SettingError(f"kind of {found.name} is {found.kind}; got {kind!r}.")
            return found
        if kind not in USER_KINDS:
            raise SettingError(
                f"kind must be given for {name!r}: one of {', '.join(USER_KINDS)}; got {kind}."
            )
        return Concept(name, kind, anchor=anchor or "")  # type: ignore[arg-type]
    except UnknownConceptError as error:
        raise SettingError(
            f"{error} {model.name} has a list of its concepts, so that no other text is taken."
        ) from error
    except ValueError as error:
        raise error if isinstance(error, ErasureError) else SettingError(str(error)) from error


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
