"""Which class of a model each name of a source is: folders, and a data set's own classes."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from erasure_datasets.errors import DataError
from erasure_datasets.labelled import listed


def match_labels(names: Sequence[str], labels: Sequence[str], source: str) -> dict[str, int]:
    """The class of each of a source's names that is one, by the first rule that finds any.

    The label itself; without regard to case, `_`, `-` and blanks; its part before a comma; "#134"
    by number. If none is found so and all are numbers, they are the classes' numbers; if all are
    ImageNet's WordNet ids and there are 1000 labels, theirs. DataError if one name is of several
    classes or one class has several names, or if there are both names of no class and classes of
    no name.
    """
    same = next((name for name, count in Counter(names).items() if count > 1), None)
    if same is not None:
        raise DataError(f"{source} must have different names for its classes; has {same!r} twice.")
    found = _named(names, labels)
    if not any(found.values()):
        found = {name: _numbered(name, names, labels) for name in names}
    for name, places in found.items():
        if len(places) > 1:
            numbers = ", ".join(f"#{place}" for place in places[:5])
            raise DataError(
                f"{name!r} in {source} is the name of {len(places)} classes ({numbers}); give "
                "them by their numbers."
            )
    matched = {name: places[0] for name, places in found.items() if places}
    for place, count in Counter(matched.values()).items():
        if count > 1:
            twice = " and ".join(repr(name) for name in matched if matched[name] == place)
            raise DataError(f"{source} must have each class once; {twice} are {labels[place]!r}.")
    unknown = [name for name in names if name not in matched]
    lacking = [label for place, label in enumerate(labels) if place not in matched.values()]
    if not matched:
        raise DataError(
            f"{source} holds no image of a known class ({listed(labels)}); has {listed(unknown)}."
        )
    if unknown and lacking:
        raise DataError(
            f"{source} must have the model's names for its classes; {listed(unknown)} are no "
            f"classes, and there are no images of {listed(lacking)}. Rename or remove them."
        )
    return matched


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def short(name: str) -> str:
    """Without what follows a comma, or the number of a label that several classes have."""
    return _plain(re.sub(r"(,.*| #\d+)$", "", name))


def _named(names: Sequence[str], labels: Sequence[str]) -> dict[str, list[int]]:
    """The classes that each name can be."""
    known: list[tuple[Callable[[str], str], dict[str, list[int]]]] = []
    for form in (str, _plain, short):
        places: dict[str, list[int]] = {}
        for place, label in enumerate(labels):
            places.setdefault(form(label), []).append(place)
        known.append((form, places))
    numbers = {f"#{place}": [place] for place in range(len(labels))}
    return {
        name: next((of[form(name)] for form, of in known if form(name) in of), None)
        or numbers.get(name, [])
        for name in names
    }


def _numbered(name: str, names: Sequence[str], labels: Sequence[str]) -> list[int]:
    if all(re.fullmatch(r"[0-9]+", other) for other in names):
        return [int(name)] if int(name) < len(labels) else []
    if len(labels) == 1000 and all(re.fullmatch(r"n\d{8}", other) for other in names):
        from timm.data import ImageNetInfo

        return [place for place, word in enumerate(ImageNetInfo().label_names()) if word == name]
    return []
