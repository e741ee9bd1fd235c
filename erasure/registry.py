"""Methods by kind of model and name.

A method is a module under erasure/methods/<kind>/, found by its file's stem.
"""

import importlib
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from erasure.config import module_names, nearest
from erasure.edit import Edit
from erasure.errors import SettingError
from erasure.models.diffusion.model import DiffusionModel
from erasure.training.run import Run
from erasure_datasets.concept import Concept

Kind = Literal["diffusion", "classifier"]
MethodT = TypeVar("MethodT", bound=type)


class Method(Protocol):
    """What every diffusion method's dataclass offers."""

    def erase(self, model: DiffusionModel, concepts: list[Concept], run: Run) -> Edit: ...


class Registry:
    """Method classes by (kind, name); the name is the module's stem with hyphens."""

    def __init__(self) -> None:
        self._classes: dict[tuple[str, str], type[Method]] = {}

    def register(self, method: MethodT) -> MethodT:
        """Class decorator. A second class under one name is an error."""
        kind, stem = method.__module__.split(".")[-2:]
        key = (kind, stem.replace("_", "-"))
        if key in self._classes:
            raise ValueError(f"two methods are called {key}: {self._classes[key]} and {method}")
        self._classes[key] = method
        return method

    def names(self, kind: Kind) -> list[str]:
        """Every method's name, found without importing any."""
        return module_names(Path(__file__).parent / "methods" / kind)

    def get(self, kind: Kind, name: str) -> type[Method]:
        """Import and return one method's class; SettingError lists near names if there is none."""
        name = name.replace("_", "-")
        if name not in self.names(kind):
            raise SettingError(
                f"there is no {kind} method {name!r}. {nearest(name, self.names(kind))}"
            )
        importlib.import_module(f"erasure.methods.{kind}.{name.replace('-', '_')}")
        return self._classes[kind, name]


METHODS = Registry()
