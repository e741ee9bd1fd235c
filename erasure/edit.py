"""The result of an erasure: the tensors that changed, and a record of what they are."""

import json
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from erasure.errors import EditError
from erasure.files.naming import checked_path
from erasure.files.records import EditShape, PartShape, read_record
from erasure.files.storage import file_digest, read_tensors, write_json, write_tensors
from erasure.models.diffusion.model import Sampling
from erasure.models.editable import Editable, Moved
from erasure.models.lora import deltas
from erasure.sparse import Changed, Sparse, add, changed, opened, put, stored
from erasure_datasets.concept import Concept

TENSORS = "edit.safetensors"
NOTHING_LEFT = "every request would be taken back; the base model is what is left."


@dataclass(frozen=True, repr=False)
class Edit:
    """What an erasure changed, in float32.

    Form "weights": the changed tensors by full name ("unet.…", "blocks.…"), with new values.
    Form "sparse": the same, but those of which few elements changed as NAME:indices, NAME:values
    and NAME:shape (see sparse.py).
    Form "lora": each request's adapter, as "request.{i}.{module}.lora_A.weight" and lora_B;
    `requests` has the names that request i took away, and `settings` rank and alpha.
    `base` is the model they belong to: a Hub id (with its `revision`), a built-in name or an
    absolute path; `base_digest` is `digest_of` its weights. `digest` is the sha256 of
    edit.safetensors, "" for an edit that is not on disk yet. `moved` is `Editable.moved` of the
    edited model; empty for edits of earlier versions. `parts` are the erasures that an edit of
    several is made of, and empty for an edit of one; `settings` are then the last one's.
    """

    tensors: dict[str, Tensor]
    method: str
    concepts: list[Concept]
    base: str
    form: Literal["weights", "sparse", "lora"] = "weights"
    sampling: Sampling | None = None
    settings: dict[str, object] = field(default_factory=dict)
    requests: dict[str, list[str]] = field(default_factory=dict)
    revision: str | None = None
    base_digest: str = ""
    digest: str = ""
    moved: Mapping[str, Moved] = field(default_factory=dict)
    parts: list[PartShape] = field(default_factory=list)

    def __repr__(self) -> str:
        names = ", ".join(concept.name for concept in self.concepts)
        return f"Edit({self.method} of {self.base}: {names}; {len(self.tensors)} tensors)"

    @classmethod
    def between(
        cls,
        model: Editable,
        concepts: list[Concept],
        method: str,
        settings: dict[str, object],
    ) -> Self:
        """Collect what differs from the original model; EditError if nothing does."""
        found: dict[str, Changed] = {}
        current = model.tensors()
        for name, original in model.originals.items():
            value = current[name].detach().cpu()
            if not torch.isfinite(value).all():
                raise EditError(
                    f"{method} left values in {name} that are not finite. Give it gentler "
                    "settings, such as a lower learning_rate, and use another --out."
                )
            if not torch.equal(value, original):
                found[name] = changed(value, original)
        if not found:
            raise EditError(
                f"{method} changed no weight of {model.name}. Give it stronger settings, such as "
                "more steps or a higher learning_rate, and use another --out."
            )
        is_sparse = any(isinstance(new, Sparse) for new in found.values())
        return cls(
            stored(found), method, concepts, model.name,
            "sparse" if is_sparse else "weights", getattr(model, "sampling", None),
            settings=settings, moved=model.moved(),
        )  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write edit.safetensors, then edit.json, whose presence says that the edit is whole."""
        file = folder / TENSORS
        write_tensors(file, self.tensors, self._told())
        record: dict[str, object] = {
            "form": self.form,
            "method": self.method,
            "concepts": [concept.as_json() for concept in self.concepts],
            "base": self.base,
            "revision": self.revision,
            "base_digest": self.base_digest,
            "digest": file_digest(file),
            "sampling": asdict(self.sampling) if self.sampling else None,
            "settings": self.settings,
            "moved": {name: list(sums) for name, sums in self.moved.items()},
        }
        for name in ("requests", "parts"):
            if getattr(self, name):
                record[name] = getattr(self, name)
        write_json(folder / "edit.json", record)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read a run's or a delta folder's edit; EditError names what is missing or damaged."""
        folder = checked_path(folder, "run")
        file = folder / "edit.json"
        if not file.is_file():
            raise EditError(
                f"{folder} holds no finished erasure (no edit.json); "
                f"run `erasure erase` with --out {folder}."
            )
        record = read_record(file, EditShape, error=EditError)
        try:
            concepts = [Concept.from_json(dict(concept)) for concept in record["concepts"]]
        except (TypeError, ValueError) as error:
            raise EditError(f"{file} is not an edit record: {error}") from error
        tensors, noted = read_tensors(folder / TENSORS)
        digest = record.get("digest", "")
        if digest and digest != file_digest(folder / TENSORS):
            raise EditError(
                f"{folder / TENSORS} is not the file that {file} was written with: it was damaged "
                "or replaced. Run the erasure again, in another folder."
            )
        found = cls(
            tensors, record["method"], concepts, record["base"], record["form"],
            Sampling(**record["sampling"]) if record["sampling"] else None,
            record["settings"], record.get("requests", {}), record.get("revision"),
            record.get("base_digest", ""), digest, record.get("moved", {}),
            record.get("parts", []),
        )  # fmt: skip
        found._check(file)
        for name, told in found._told().items():
            if noted.get(name, told) != told:
                raise EditError(
                    f"{file} was changed by hand: its {name} are {told}, and "
                    f"{folder / TENSORS} was written with {noted[name]}. Put them back."
                )
        return found

    def _told(self) -> dict[str, str]:
        """What edit.safetensors says too, so that its meaning is not changed by another file."""
        names = [concept.name for concept in self.concepts]
        known = {"concepts": names, "requests": self.requests, "settings": self.settings}
        known |= {"parts": self.parts} if self.parts else {}
        return {name: json.dumps(value, sort_keys=True) for name, value in known.items()}

    def _check(self, file: Path) -> None:
        """EditError for adapters that their record does not describe, and for torn indices."""
        if self.form != "lora":
            opened(self.tensors, file)
            return
        for name in ("alpha", "rank"):
            value = self.settings.get(name)
            is_flag = isinstance(value, bool)
            if not isinstance(value, (int, float)) or is_flag or value <= 0:
                raise EditError(f"{file} has no {name} for its adapters; got {value!r}.")
        rank = self.settings["rank"]
        sizes = {n: t.shape[0] for n, t in self.tensors.items() if "lora_A" in n}
        odd = next((name for name, size in sizes.items() if size != rank), None)
        if odd is not None:
            raise EditError(f"{file} says rank {rank}, and {odd} has {sizes[odd]}.")
        known = tuple(f"request.{number}." for number in self.requests)
        empty = next((k for k in known if not any(n.startswith(k) for n in self.tensors)), None)
        if empty is not None:
            raise EditError(f"{file} has a request without an adapter, {empty.rstrip('.')}.")
        stray = next((name for name in self.tensors if not name.startswith(known)), None)
        if stray is not None:
            raise EditError(f"{file} has no request for {stray}.")

    @property
    def is_of_classifier(self) -> bool:
        """Whether a classifier was edited."""
        return bool(self.concepts) and self.concepts[0].kind in ("class", "samples")

    @property
    def scale(self) -> float:
        """alpha / rank of the adapters."""
        return float(self.settings["alpha"]) / int(self.settings["rank"])  # type: ignore[arg-type, call-overload]

    def adapter(self, request: str) -> dict[str, Tensor]:
        """One request's matrices by module."""
        start = f"request.{request}."
        return {n.removeprefix(start): t for n, t in self.tensors.items() if n.startswith(start)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights that the edit changes, by full name."""
        if self.form != "lora":
            known = opened(self.tensors, self)
            return {name: tuple(new.shape) for name, new in known.items()}
        return {name: tuple(added[0].shape) for name, added in self._added().items()}

    def effects(self) -> dict[str, Callable[[Tensor], None]]:
        """What the edit does to each of its base's weights, in place, by full name."""
        if self.form != "lora":
            return {n: partial(put, new) for n, new in opened(self.tensors, self).items()}
        return {name: partial(add, added) for name, added in self._added().items()}

    def _added(self) -> dict[str, list[Tensor]]:
        """What the adapters add to each weight, request after request."""
        found: dict[str, list[Tensor]] = {}
        for request in self.requests:
            for name, delta in deltas(self.adapter(request), self.scale).items():
                found.setdefault(name, []).append(delta)
        return found

    def apply(self, model: Editable) -> None:
        """Put the edit into the model's weights; the values it replaces are kept for `undo`.

        EditError if it does not fit, or if another edit (or this one) has changed the same weights.
        """
        current = model.tensors()
        shapes = self.shapes()
        taken = next((name for name in shapes if name in model.originals), None)
        if taken is not None:
            raise EditError(
                f"{model.name} holds an edit of {taken} already; undo that one first. Two edits of "
                "the same weights cannot be put together."
            )
        for name, shape in shapes.items():
            if name not in current:
                raise EditError(
                    f"the edit changes {name}, which {model.name} does not have; "
                    f"it was made on {self.base}."
                )
            if tuple(current[name].shape) != shape:
                raise EditError(
                    f"the edit's {name} does not fit {model.name} ({shape} against "
                    f"{tuple(current[name].shape)}); it was made on {self.base}."
                )
        model.remember(list(shapes))
        for name, effect in self.effects().items():
            effect(current[name])

    def without(self, names: Sequence[str]) -> Self:
        """The edit with the requests for these names taken back; EditError if it cannot be."""
        if self.form != "lora":
            raise EditError(
                f"{self.method} changed the weights for all its concepts at once; only edits "
                "with one adapter per request (gs-lora), and those of uce alone, give one back."
            )
        kept = {
            number: taken for number, taken in self.requests.items() if not set(taken) & set(names)
        }
        refuse_untaken(names, {name for taken in self.requests.values() for name in taken})
        for taken in self.requests.values():
            left_over = [name for name in taken if name not in names]
            if left_over and len(left_over) < len(taken):
                raise EditError(
                    f"one request took {', '.join(taken)} together; give back all of them, "
                    f"{', '.join(left_over)} too, or none."
                )
        if not kept:
            raise EditError(NOTHING_LEFT)
        left = {name for taken in kept.values() for name in taken}
        parts = [{**p, "concepts": [n for n in p["concepts"] if n in left]} for p in self.parts]
        found = replace(
            self,
            tensors={n: t for n, t in self.tensors.items() if n.split(".")[1] in kept},
            requests=kept,
            concepts=[concept for concept in self.concepts if concept.name in left],
            parts=[part for part in parts if part["concepts"]],
        )
        return replace(found, moved=found.moved_by_adapters(self.moved))

    def moved_by_adapters(self, before: Mapping[str, Moved]) -> dict[str, Moved]:
        """How far these requests move the weights; `before` tells of the base's, and of more."""
        return {
            name: (before[name][0], float(torch.stack(d).sum(0).square().sum()), before[name][2])
            for name, d in self._added().items()
            if name in before
        }

    def undo(self, model: Editable) -> None:
        """Give the model its own values back; EditError if this edit is not in it."""
        changed = list(self.shapes())
        missing = [name for name in changed if name not in model.originals]
        if missing:
            raise EditError(
                f"this edit was not applied to {model.name}: nothing is remembered of {missing[0]}."
            )
        current = model.tensors()
        with torch.no_grad():
            for name in changed:
                current[name].copy_(model.originals.pop(name))


def refuse_untaken(names: Sequence[str], taken: Set[str]) -> None:
    """EditError for a name to take back that no request took."""
    unknown = next((name for name in names if name not in taken), None)
    if unknown is not None:
        raise EditError(f"no request took {unknown!r}; they took {', '.join(sorted(taken))}.")
