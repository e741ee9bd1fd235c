"""One edit made of several: one laid upon another, or all of them side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from erasure.edit import Edit
from erasure.errors import EditError
from erasure.files.records import PartShape
from erasure.models.editable import Moved
from erasure.sparse import Changed, changed, stored

THEN = ", then "
Effect = Callable[[Tensor], None]


def parts_of(edit: Edit) -> list[PartShape]:
    """The erasures that an edit is made of: itself alone, if it is not made of several."""
    names = [concept.name for concept in edit.concepts]
    own: PartShape = {
        "method": edit.method, "concepts": names, "settings": edit.settings, "digest": edit.digest,
    }  # fmt: skip
    return edit.parts or [own]


def laid_upon(earlier: Edit, later: Edit, base: Mapping[str, Tensor]) -> Edit:
    """One edit of the base that does what the earlier one does, and upon it the later one.

    `base` holds the un-erased float32 values of all weights that either changes. Adapters upon
    adapters stay apart, one for each request. Of a concept that both took, the later one tells.
    """
    concepts = {concept.name: concept for concept in (*earlier.concepts, *later.concepts)}
    is_same = earlier.method.split(THEN)[-1] == later.method
    told = replace(
        later,
        concepts=list(concepts.values()),
        method=earlier.method if is_same else earlier.method + THEN + later.method,
        parts=[*parts_of(earlier), *parts_of(later)],
        sampling=later.sampling or earlier.sampling,
    )
    edits = [earlier, later]
    if earlier.form == later.form == "lora":
        return with_adapters(told, edits)
    effects = [edit.effects() for edit in edits]

    def both(name: str, whole: Tensor) -> None:
        for effect in effects:
            if name in effect:
                effect[name](whole)

    return with_weights(told, dict.fromkeys([*effects[0], *effects[1]]), both, base)


@torch.no_grad()
def with_weights(
    told: Edit, names: Mapping[str, object], change: Callable[[str, Tensor], None],
    base: Mapping[str, Tensor],
) -> Edit:  # fmt: skip
    """An edit whose weights are what `change` makes of the base's, in place.

    `told` says everything else of it. EditError if nothing is changed in the end.
    """
    found, moved = dict[str, Changed](), dict[str, Moved]()
    for name in names:
        old = base[name].detach().to("cpu", torch.float32)
        whole = old.clone()
        change(name, whole)
        if not torch.equal(whole, old):
            found[name] = changed(whole, old)
            gone = float((whole - old).square().sum())
            moved[name] = old.numel(), gone, float(old.square().sum())
    if not found:
        raise EditError("the edits undo one another; the base model is what is left.")
    is_sparse = any(not isinstance(new, Tensor) for new in found.values())
    form = "sparse" if is_sparse else "weights"
    return replace(told, tensors=stored(found), form=form, requests={}, moved=moved)


def with_adapters(told: Edit, edits: Sequence[Edit]) -> Edit:
    """An edit that holds every request of these, with its own adapter, in turn.

    `told` says everything else of it.
    """
    tensors, requests = dict[str, Tensor](), dict[str, list[str]]()
    for edit in edits:
        for request, taken in edit.requests.items():
            number = str(len(requests))
            requests[number] = taken
            tensors |= {f"request.{number}.{n}": t for n, t in edit.adapter(request).items()}
    found = replace(told, tensors=tensors, form="lora", requests=requests)
    known = {name: sums for edit in reversed(edits) for name, sums in edit.moved.items()}
    return replace(found, moved=found.moved_by_adapters(known))


def refuse_unlike_adapters(one: Mapping[str, object], other: Mapping[str, object]) -> None:
    """EditError unless adapters with these settings can stand in one edit, which has one scale."""
    for name in ("rank", "alpha"):
        if one[name] != other[name]:
            raise EditError(
                f"{name} must be {one[name]}, as that of the adapters that are there already; got "
                f"{other[name]}."
            )


def refuse_unlike_requests(edit: Edit, word: str, settings: Mapping[str, object]) -> None:
    """EditError unless the edit is of this method alone, and by these settings but for `anew`.

    Only then can all of its requests be solved for at once.
    """
    for part in parts_of(edit):
        names = ", ".join(part["concepts"])
        if part["method"] != word:
            raise EditError(
                f"{word} cannot solve anew for {names}, which {part['method']} took away."
            )
        for name, value in settings.items():
            known = part["settings"].get(name, value)
            if name != "anew" and known != value:
                raise EditError(
                    f"{name} must be {known!r}, as of {names}, to solve for all at once; got "
                    f"{value!r}."
                )
