"""The result of an erasure: the tensors that changed, and a record of what they are."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from erasure.errors import EditError
from erasure.models.diffusion import DiffusionModel, Sampling
from erasure.storage import read_tensors, write_json, write_tensors
from erasure_datasets.concept import Concept


@dataclass(frozen=True)
class Edit:
    """Changed tensors by full name ("unet.…", "text_encoder.…"), float32, with their new values.

    `base` is the model they belong to, as id@revision.
    """

    tensors: dict[str, Tensor]
    method: str
    concepts: list[Concept]
    base: str
    form: Literal["weights", "lora"] = "weights"
    sampling: Sampling | None = None
    settings: dict[str, object] = field(default_factory=dict)

    @classmethod
    def between(
        cls,
        model: DiffusionModel,
        concepts: list[Concept],
        method: str,
        settings: dict[str, object],
    ) -> Self:
        """Collect what differs from the untouched model; EditError if nothing does."""
        changed: dict[str, Tensor] = {}
        current = model.parameters()
        for name, original in model.originals.items():
            value = current[name].detach()
            if not torch.isfinite(value).all():
                raise EditError(
                    f"{method} left values in {name} that are not finite; nothing was written."
                )
            if not torch.equal(value, original):
                changed[name] = value.float().cpu().clone()
        if not changed:
            raise EditError(
                f"{method} changed no weight of {model.name}; raise its steps or learning_rate."
            )
        return cls(
            changed, method, concepts, model.name, sampling=model.sampling, settings=settings
        )

    def save(self, folder: Path) -> None:
        """Write edit.safetensors, then edit.json, whose presence says that the edit is whole."""
        write_tensors(folder / "edit.safetensors", self.tensors)
        record = {
            "form": self.form,
            "method": self.method,
            "concepts": [concept.as_json() for concept in self.concepts],
            "base": self.base,
            "sampling": asdict(self.sampling) if self.sampling else None,
            "settings": self.settings,
        }
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
        )

    def apply(self, model: DiffusionModel) -> None:
        """Put the changed tensors into the model; the values they replace are kept for `undo`."""
        if self.form != "weights":
            raise EditError(f"an edit of form {self.form!r} cannot be written into weights.")
        current = model.parameters()
        for name, tensor in self.tensors.items():
            if name not in current:
                raise EditError(
                    f"the edit changes {name}, which {model.name} does not have; "
                    f"it was made on {self.base}."
                )
            if current[name].shape != tensor.shape:
                shapes = f"{tuple(tensor.shape)} against {tuple(current[name].shape)}"
                raise EditError(
                    f"the edit's {name} does not fit {model.name} ({shapes}); "
                    f"it was made on {self.base}."
                )
        model.remember(list(self.tensors))
        with torch.no_grad():
            for name, tensor in self.tensors.items():
                current[name].copy_(tensor)

    def undo(self, model: DiffusionModel) -> None:
        """Give the model its own values back; EditError if this edit is not in it."""
        missing = [name for name in self.tensors if name not in model.originals]
        if missing:
            raise EditError(
                f"this edit was not applied to {model.name}: nothing is remembered of {missing[0]}."
            )
        current = model.parameters()
        with torch.no_grad():
            for name in self.tensors:
                current[name].copy_(model.originals.pop(name))
