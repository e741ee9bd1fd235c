"""The result of an erasure: the tensors that changed, and a record of what they are."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from erasure.errors import EditError
from erasure.models.diffusion import Sampling
from erasure.models.editable import Editable
from erasure.models.lora import deltas, merge
from erasure.storage import read_tensors, write_json, write_tensors
from erasure_datasets.concept import Concept


@dataclass(frozen=True)
class Edit:
    """What an erasure changed, in float32.

    Form "weights": the changed tensors by full name ("unet.…", "blocks.…"), with new values.
    Form "lora": each request's adapter, as "request.{i}.{module}.lora_A.weight" and lora_B;
    `requests` has the names that request i took away, and `settings` rank and alpha.
    `base` is the model they belong to, as id@revision.
    """

    tensors: dict[str, Tensor]
    method: str
    concepts: list[Concept]
    base: str
    form: Literal["weights", "lora"] = "weights"
    sampling: Sampling | None = None
    settings: dict[str, object] = field(default_factory=dict)
    requests: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def between(
        cls,
        model: Editable,
        concepts: list[Concept],
        method: str,
        settings: dict[str, object],
    ) -> Self:
        """Collect what differs from the untouched model; EditError if nothing does."""
        changed: dict[str, Tensor] = {}
        current = model.parameters()
        for name, original in model.originals.items():
            value = current[name].detach().cpu()
            if not torch.isfinite(value).all():
                raise EditError(
                    f"{method} left values in {name} that are not finite; nothing was written."
                )
            if not torch.equal(value, original):
                changed[name] = value.float().clone()
        if not changed:
            raise EditError(
                f"{method} changed no weight of {model.name}; raise its steps or learning_rate."
            )
        return cls(
            changed, method, concepts, model.name, sampling=getattr(model, "sampling", None),
            settings=settings,
        )  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write edit.safetensors, then edit.json, whose presence says that the edit is whole."""
        write_tensors(folder / "edit.safetensors", self.tensors)
        record: dict[str, object] = {
            "form": self.form,
            "method": self.method,
            "concepts": [concept.as_json() for concept in self.concepts],
            "base": self.base,
            "sampling": asdict(self.sampling) if self.sampling else None,
            "settings": self.settings,
        }
        if self.requests:
            record["requests"] = self.requests
        write_json(folder / "edit.json", record)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a run's or a delta folder's edit; EditError names what is missing."""
        file = folder / "edit.json"
        if not file.is_file():
            raise EditError(
                f"{folder} holds no finished erasure (no edit.json); "
                f"run `erasure erase` with --out {folder}."
            )
        try:
            record = json.loads(file.read_text())
            sampling = Sampling(**record["sampling"]) if record["sampling"] else None
            concepts = [Concept.from_json(concept) for concept in record["concepts"]]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise EditError(f"{file} is not an edit record: {error!r}.") from error
        tensors, _ = read_tensors(folder / "edit.safetensors")
        return cls(
            tensors,
            record["method"],
            concepts,
            record["base"],
            record["form"],
            sampling,
            record["settings"],
            record.get("requests", {}),
        )

    @property
    def is_of_classes(self) -> bool:
        """Whether a classifier was edited."""
        return bool(self.concepts) and self.concepts[0].kind == "class"

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
        if self.form == "weights":
            return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        found: dict[str, tuple[int, ...]] = {}
        for request in self.requests:
            added = deltas(self.adapter(request), self.scale)
            found |= {name: tuple(tensor.shape) for name, tensor in added.items()}
        return found

    def apply(self, model: Editable) -> None:
        """Put the edit into the model's weights; the values it replaces are kept for `undo`."""
        current = model.parameters()
        shapes = self.shapes()
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
        if self.form == "lora":
            for request in self.requests:
                merge(model, self.adapter(request), self.scale)
            return
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                current[name].copy_(tensor)

    def without(self, names: Sequence[str]) -> Self:
        """The edit with the requests for these names taken back; EditError if it cannot be."""
        if self.form != "lora":
            raise EditError(
                f"{self.method} changed the weights for all its concepts at once; only edits "
                "with one adapter per request (gs-lora) give one back."
            )
        kept = {
            number: taken for number, taken in self.requests.items() if not set(taken) & set(names)
        }
        back = {name for taken in self.requests.values() for name in taken}
        unknown = next((name for name in names if name not in back), None)
        if unknown is not None:
            raise EditError(f"no request took {unknown!r}; they took {', '.join(sorted(back))}.")
        if not kept:
            raise EditError("every request would be taken back; the base model is what is left.")
        left = {name for taken in kept.values() for name in taken}
        return replace(
            self,
            tensors={n: t for n, t in self.tensors.items() if n.split(".")[1] in kept},
            requests=kept,
            concepts=[concept for concept in self.concepts if concept.name in left],
        )

    def undo(self, model: Editable) -> None:
        """Give the model its own values back; EditError if this edit is not in it."""
        changed = list(self.shapes())
        missing = [name for name in changed if name not in model.originals]
        if missing:
            raise EditError(
                f"this edit was not applied to {model.name}: nothing is remembered of {missing[0]}."
            )
        current = model.parameters()
        with torch.no_grad():
            for name in changed:
                current[name].copy_(model.originals.pop(name))
